"""Predictions saved as they are made: label maps, panoptic PNG + JSON, instance RLE, and a manifest.

Below the chosen folder:

* ``predictions/<stem>.png``: semantic label maps, contiguous class indices, 8 bits or 16 where the classes need them;
* ``panoptic/<stem>.png`` and ``panoptic.json``: COCO panoptic format;
* ``instances.json``: COCO results format with compressed RLE;
* ``manifest.json``: what produced them.

Each image's files are written under a temporary name and renamed, so an interrupted run leaves only whole files, and
what is there can be skipped when the run is repeated (`saved_stems`). JSON entries are kept one small file per image
(``panoptic_parts/``, ``instances_parts/``) until `PredictionSaver.finish` joins them, so memory does not grow.
"""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmseg_plugins.datasets.label_files import save_image, write_label_map
from mmseg_plugins.datasets.segment_files import id_to_rgb
from mmseg_plugins.evaluation.rle import encode_mask
from mmseg_plugins.evaluation.saving_manifest import build_manifest

LABEL_MAPS = "predictions"
PANOPTIC = "panoptic"
INSTANCES = "instances"
MANIFEST = "manifest.json"

logger = logging.getLogger(__name__)


def saved_stems(folder: str | os.PathLike) -> set[str]:
    """Stems of the images whose predictions are complete below ``folder``, of whichever kind they are."""
    root = Path(folder)
    kinds = [
        {path.stem for path in (root / LABEL_MAPS).glob("[!.]*.png")},
        {path.stem for path in (root / f"{PANOPTIC}_parts").glob("[!.]*.json")},
        {path.stem for path in (root / f"{INSTANCES}_parts").glob("[!.]*.json")},
    ]
    present = [stems for stems in kinds if stems]
    return set.intersection(*present) if present else set()


def image_stem(path: str, img_suffix: str = "") -> str:
    """Name of an image without folder and suffix; the suffix may be longer than the extension, as Cityscapes' is."""
    name = os.path.basename(path)
    return name.removesuffix(img_suffix or os.path.splitext(name)[1])


def without_saved(
    entries: list[dict[str, Any]], folder: str | os.PathLike, img_suffix: str = ""
) -> list[dict[str, Any]]:
    """Leave out the data set entries whose images have a complete prediction below ``folder``.

    Args:
        entries: with ``img_path``.
        folder: what an earlier run wrote; nothing is left out where it does not exist.
        img_suffix: what follows the stem in image names; empty for the extension.

    Raises:
        ValueError: if every image has one, so that nothing is left to predict.
    """
    done = saved_stems(folder)
    left = [entry for entry in entries if image_stem(entry["img_path"], img_suffix) not in done]
    skipped = len(entries) - len(left)
    if skipped and not left:
        raise ValueError(
            f"all {skipped} images have a prediction in {os.fspath(folder)}: nothing is left to predict. Score the "
            "folder with mmseg-plugins score, or leave skip_saved out to predict again."
        )
    logger.info("%d of %d images are predicted already; %d are left.", skipped, len(entries), len(left))
    return left


def write_json(path: str | os.PathLike, content: object, *, indent: int | None = None) -> None:
    """Write JSON atomically; the folder is made where missing."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        temporary.write_text(json.dumps(content, indent=indent), encoding="utf-8")
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def image_id_of(sample: Mapping[str, Any], stem: str) -> int | str:
    """The benchmark's image id: the data set's own, else the stem as a number, else the stem."""
    if sample.get("img_id") is not None:
        return sample["img_id"]
    return int(stem) if stem.isdigit() else stem


class PredictionSaver:
    """Write the predictions of data samples below one folder.

    Args:
        folder: where to write; made where missing.
        dataset_meta: the data set's metainfo: ``classes``; where present ``dataset_ids`` (category ids of the
            benchmark, index by index) and ``img_suffix`` (removed from image names to get the stem).
    """

    def __init__(self, folder: str | os.PathLike, *, dataset_meta: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.num_classes = len(dataset_meta["classes"])
        self.dataset_meta = dataset_meta
        self.ignore_index = dataset_meta.get("ignore_index", 255)
        self.category_ids = list(dataset_meta.get("dataset_ids") or range(self.num_classes))
        self._image_of_stem: dict[str, str] = {}
        self.folder.mkdir(parents=True, exist_ok=True)

    def save(self, sample: Mapping[str, Any]) -> None:
        """Write every kind of prediction that the sample holds.

        Args:
            sample: a data sample as a dictionary, as metrics get it: ``img_path``, ``ori_shape`` and one or more of
                ``pred_sem_seg`` (``data`` (1, H, W) class indices), ``pred_panoptic_seg`` (``data`` (1, H, W) segment
                ids, 0 void; ``segments_info`` list of ``id`` and ``category_id``, the class index) and
                ``pred_instances`` (``masks`` (N, H, W), ``labels`` (N,), ``scores`` (N,)).

        Raises:
            ValueError: naming the image, if a map has another size than the image, or labels are out of range.
        """
        stem = self.stem_of(sample["img_path"])
        if "pred_sem_seg" in sample:
            self._save_label_map(stem, _plane(sample["pred_sem_seg"]["data"]), sample)
        if "pred_panoptic_seg" in sample:
            self._save_panoptic(stem, sample)
        if "pred_instances" in sample:
            self._save_instances(stem, sample)

    def stem_of(self, image_path: str) -> str:
        """Name of the image without folder and suffix; two images of one name are refused.

        Raises:
            ValueError: if another image of the run has the same stem.
        """
        stem = image_stem(image_path, self.dataset_meta.get("img_suffix") or "")
        earlier = self._image_of_stem.setdefault(stem, image_path)
        if earlier != image_path:
            raise ValueError(
                f"two images would be saved under the name {stem!r}: {earlier} and {image_path}. "
                "Rename one, or test the folders one by one with an output folder each."
            )
        return stem

    def _check_size(self, shape: tuple[int, ...], sample: Mapping[str, Any]) -> None:
        wanted = tuple(sample.get("ori_shape", shape))[:2]
        if tuple(shape[-2:]) != wanted:
            raise ValueError(
                f"the prediction for {sample['img_path']} is {tuple(shape[-2:])}, but the image is {wanted} (H, W)."
            )

    def _save_label_map(self, stem: str, labels: np.ndarray, sample: Mapping[str, Any]) -> None:
        self._check_size(labels.shape, sample)
        path = self.folder / LABEL_MAPS / f"{stem}.png"
        unanswered = bool((labels == self.ignore_index).any())
        foreign = (labels < 0) | ((labels >= self.num_classes) & (labels != self.ignore_index))
        if foreign.any():
            raise ValueError(
                f"the prediction for {sample['img_path']} holds the class index {int(labels[foreign][0])}, but there "
                f"are {self.num_classes} classes (and {self.ignore_index} for pixels without an answer)."
            )
        largest = max(self.num_classes - 1, self.ignore_index if unanswered else 0)
        write_label_map(path, labels, largest=largest)

    def _save_panoptic(self, stem: str, sample: Mapping[str, Any]) -> None:
        prediction = sample["pred_panoptic_seg"]
        ids = _plane(prediction["data"])
        self._check_size(ids.shape, sample)
        segments = describe_segments(ids, prediction["segments_info"], self.category_ids, name=sample["img_path"])
        save_image(self.folder / PANOPTIC / f"{stem}.png", Image.fromarray(id_to_rgb(ids)))
        entry = {"image_id": image_id_of(sample, stem), "file_name": f"{stem}.png", "segments_info": segments}
        write_json(self.folder / f"{PANOPTIC}_parts" / f"{stem}.json", entry)

    def _save_instances(self, stem: str, sample: Mapping[str, Any]) -> None:
        found = sample["pred_instances"]
        masks = np.asarray(_numpy(found["masks"])).astype(bool)
        self._check_size(masks.shape, sample)
        image_id = image_id_of(sample, stem)
        entries = [
            {
                "image_id": image_id,
                "category_id": self.category_ids[int(label)],
                "segmentation": encode_mask(mask),
                "score": float(score),
            }
            for mask, label, score in zip(masks, _numpy(found["labels"]), _numpy(found["scores"]), strict=True)
        ]
        write_json(self.folder / f"{INSTANCES}_parts" / f"{stem}.json", entries)

    def finish(self, num_images: int) -> None:
        """Join the per-image JSON entries and write the manifest; call it on one process, after all have saved.

        Args:
            num_images: images of this run; more files than that were there before and are kept.
        """
        self._join(PANOPTIC, lambda parts: {"annotations": parts})
        self._join(INSTANCES, lambda parts: [entry for entries in parts for entry in entries])
        total = len(saved_stems(self.folder))
        if total > num_images:
            logger.warning(
                "%s holds predictions of %d images, %d of them made now: figures printed by this run are of these %d "
                "only. Score the whole folder with `mmseg-plugins score`.",
                self.folder, total, num_images, num_images,
            )  # fmt: skip
        write_json(self.folder / MANIFEST, build_manifest(self.dataset_meta, total), indent=1)

    def _join(self, kind: str, arrange: Any) -> None:
        parts = sorted((self.folder / f"{kind}_parts").glob("[!.]*.json"))
        if parts:
            entries = [json.loads(part.read_text(encoding="utf-8")) for part in parts]
            write_json(self.folder / f"{kind}.json", arrange(entries))


def describe_segments(
    ids: np.ndarray, segments_info: list[Mapping[str, Any]], category_ids: list[int], *, name: str
) -> list[dict[str, int]]:
    """Make the JSON entries of a panoptic map, one for each segment that has pixels.

    Args:
        ids: (H, W) segment ids, 0 void.
        segments_info: ``id`` and ``category_id`` (class index) of the segments; those without a pixel are dropped.
        category_ids: the benchmark's category id of each class index.
        name: for error messages.

    Raises:
        ValueError: if the map holds ids without an entry, or two entries share an id.
    """
    present = set(np.unique(ids).tolist()) - {0}
    listed = {int(segment["id"]): int(segment["category_id"]) for segment in segments_info}
    if len(listed) != len(segments_info):
        raise ValueError(f"the panoptic prediction for {name} lists a segment id twice.")
    unknown = sorted(present - set(listed))
    if unknown:
        raise ValueError(f"the panoptic prediction for {name} has pixels of ids without an entry: {unknown[:5]}.")
    return [{"id": key, "category_id": category_ids[label]} for key, label in listed.items() if key in present]


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _plane(values: Any) -> np.ndarray:
    plane = _numpy(values)
    return plane[0] if plane.ndim == 3 else plane
