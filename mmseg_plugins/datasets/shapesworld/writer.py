"""Write ShapesWorld sets to disk: ADE20K-like label maps, COCO-like panoptic and instance files, or images alone.

A set lies in one folder::

    shapesworld.json                                what was written, by which generator version and seed
    images/{training,validation,test}/shapes_train_00000001.png, ...
    annotations/...                                 label maps: 0 unlabelled, 1..K class index + 1       (format "ade")
    annotations_seen/...                            the same with the unseen classes unlabelled          (seen_only)
    shapesworld_panoptic_{train,val,test}.json      and folders of PNGs of the same name                 (format "coco")
    shapesworld_instance_{train,val,test}.json
    shapesworld_panoptic_seen_..., shapesworld_instance_seen_...                                         (seen_only)

Every file is written whole or not at all. Writing again goes on where it stopped.
"""

import dataclasses
import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from mmseg_plugins.datasets.shapesworld.coco import categories, instance_annotations, panoptic_segments
from mmseg_plugins.datasets.shapesworld.scene import SPLITS, Scene, SceneOptions, generate_scene
from mmseg_plugins.datasets.shapesworld.world import GENERATOR_VERSION, check_granularity, held_out_classes

Format = Literal["ade", "coco"]
FORMATS = ("ade", "coco")
MANIFEST = "shapesworld.json"
# Split -> (folder name as in ADE20K, short name in JSON files).
SPLIT_NAMES = {"train": ("training", "train"), "validation": ("validation", "val"), "test": ("test", "test")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetOptions:
    """What to write for one split.

    Args:
        split: "train", "validation" or "test": different scenes of the same seed.
        count: number of scenes.
        seed: of the set.
        granularity: classes of the ground truth: 38, 14 or 10.
        formats: any of "ade" and "coco"; none writes images only.
        seen_only: also write ground truth in which only the seen classes are annotated (granularity 38).
        scene: size and content of the scenes.
    """

    split: str
    count: int
    seed: int = 0
    granularity: int = 38
    formats: tuple[Format, ...] = ("ade",)
    seen_only: bool = False
    scene: SceneOptions = dataclasses.field(default_factory=SceneOptions)

    def __post_init__(self) -> None:
        check_granularity(self.granularity)
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, but got {self.split!r}.")
        if self.count < 1:
            raise ValueError(f"count must be at least 1 scene, but got {self.count}.")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, but got {self.seed}.")
        unknown = sorted(set(self.formats) - set(FORMATS))
        if unknown:
            raise ValueError(f"formats must be among {', '.join(FORMATS)}, but got {', '.join(unknown)}.")
        if self.seen_only and not held_out_classes(self.granularity):
            raise ValueError("seen_only needs the 38 classes: other granularities have no unseen class.")

    @property
    def variants(self) -> dict[str, tuple[int, ...]]:
        """Suffix of the annotation folders -> classes without annotation."""
        return {"": (), **({"_seen": held_out_classes(self.granularity)} if self.seen_only else {})}

    def file_stem(self, index: int) -> str:
        """Return the file name, without extension, of scene ``index`` (0-based; names count from 1)."""
        return f"shapes_{SPLIT_NAMES[self.split][1]}_{index + 1:08d}"


def write_set(
    folder: str | os.PathLike,
    options: SetOptions,
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write one split of a ShapesWorld set.

    Args:
        folder: of the set; made if missing.
        options: what to write.
        overwrite: write again what is there, even if it was made otherwise.
        progress: called with (scenes done, scenes in all) after each scene.

    Returns:
        How many scenes were written; those that were there already do not count.

    A set can grow: a higher count or a further format adds to what is there.

    Raises:
        ValueError: if the folder holds the split made with another seed, granularity, scene options or generator
            version, or with more scenes.
        OSError: if the folder cannot be written.
    """
    root = Path(folder)
    _claim(root, options, overwrite)
    coco = _CocoFiles(options) if "coco" in options.formats else None
    written = 0
    for index in range(options.count):
        scene = generate_scene(options.seed, index, split=options.split, options=options.scene)
        written += _write_scene(root, options, index, scene, coco, overwrite)
        if progress is not None:
            progress(index + 1, options.count)
    if coco is not None:
        coco.write(root)
    _record(root, options, read_manifest(root)["splits"][options.split], complete=True)
    return written


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """Return what ``shapesworld.json`` in ``folder`` says: ``generator_version`` and a dictionary per split.

    Raises:
        FileNotFoundError: if the folder holds no ShapesWorld set.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no ShapesWorld set ({MANIFEST} is missing). "
            f"Write one with `mmseg-plugins shapes --out {folder}`."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _as_record(options: SetOptions) -> dict[str, Any]:
    record = json.loads(json.dumps(dataclasses.asdict(options)))
    record.pop("split")
    return record


def _claim(root: Path, options: SetOptions, overwrite: bool) -> None:
    """Refuse a folder that holds the split made otherwise, or empty it; then note what is about to be written."""
    root.mkdir(parents=True, exist_ok=True)
    there: dict[str, Any] = {}
    if overwrite:
        _remove_split(root, options.split)
    elif (root / MANIFEST).is_file():
        manifest = read_manifest(root)
        there = manifest["splits"].get(options.split, {})
        _check_continues(root, options, manifest["generator_version"], there)
    _record(root, options, there, complete=False)


def _check_continues(root: Path, options: SetOptions, version: int, there: dict[str, Any]) -> None:
    """Accept more scenes and further forms of ground truth, nothing else."""
    wanted = _as_record(options)
    differing = [key for key in ("seed", "granularity", "scene") if there and there[key] != wanted[key]]
    if there and there["count"] > options.count:
        differing.append(f"count {there['count']}")
    if version != GENERATOR_VERSION:
        differing.append(f"generator version {version}")
    if differing:
        raise ValueError(
            f"{root} already holds a {options.split} split made with other settings ({', '.join(differing)}). "
            "Choose another folder, or overwrite it (--overwrite)."
        )


def _remove_split(root: Path, split: str) -> None:
    """Delete the files that this module writes for a split."""
    folder, short = SPLIT_NAMES[split]
    for pattern in (
        f"images/{folder}/shapes_{short}_*.png",
        f"annotations*/{folder}/shapes_{short}_*.png",
        f"shapesworld_panoptic*_{short}/shapes_{short}_*.png",
        f"shapesworld_*_{short}.json",
    ):
        for path in root.glob(pattern):
            path.unlink()


def _record(root: Path, options: SetOptions, there: dict[str, Any], *, complete: bool) -> None:
    path = root / MANIFEST
    splits = read_manifest(root)["splits"] if path.is_file() else {}
    record = _as_record(options)
    record["formats"] = sorted({*record["formats"], *there.get("formats", ())})
    record["seen_only"] = record["seen_only"] or there.get("seen_only", False)
    splits[options.split] = {**record, "complete": complete}
    content = {"generator": "ShapesWorld", "generator_version": GENERATOR_VERSION, "splits": splits}
    _write_bytes(path, json.dumps(content, indent=1).encode() + b"\n")


def _write_scene(
    root: Path, options: SetOptions, index: int, scene: Scene, coco: "_CocoFiles | None", overwrite: bool
) -> bool:
    """Write the files of one scene and say whether any was missing."""
    place = f"{SPLIT_NAMES[options.split][0]}/{options.file_stem(index)}.png"
    pictures: dict[Path, np.ndarray] = {}
    for suffix, hidden in options.variants.items():
        if "ade" in options.formats:
            pictures[root / f"annotations{suffix}" / place] = stored_labels(scene, options.granularity, hidden=hidden)
        if coco is not None:
            encoded = coco.add(index, scene, suffix, hidden)
            pictures[coco.panoptic_folder(root, suffix) / f"{options.file_stem(index)}.png"] = encoded
    # The image comes last: where it is, its annotations are.
    pictures[root / "images" / place] = scene.image
    missing = [path for path in pictures if overwrite or not path.is_file()]
    for path in missing:
        _write_bytes(path, _png(pictures[path]))
    return bool(missing)


def stored_labels(scene: Scene, granularity: int, *, hidden: Sequence[int] = ()) -> np.ndarray:
    """Return the (H, W) uint8 label map as stored: class index + 1, or 0 for the ``hidden`` classes."""
    labels = scene.labels(granularity)
    return np.where(np.isin(labels, list(hidden)), 0, labels + 1).astype(np.uint8)


class _CocoFiles:
    """Gathers the JSON content of one split while its scenes are written."""

    def __init__(self, options: SetOptions) -> None:
        self.options = options
        self.images: list[dict[str, Any]] = []
        self.panoptic: dict[str, list] = {suffix: [] for suffix in options.variants}
        self.instances: dict[str, list] = {suffix: [] for suffix in options.variants}

    def stem(self, kind: str, suffix: str) -> str:
        return f"shapesworld_{kind}{suffix}_{SPLIT_NAMES[self.options.split][1]}"

    def panoptic_folder(self, root: Path, suffix: str) -> Path:
        return root / self.stem("panoptic", suffix)

    def add(self, index: int, scene: Scene, suffix: str, hidden: tuple[int, ...]) -> np.ndarray:
        """Note a scene's annotations and return its panoptic picture."""
        granularity, stem = self.options.granularity, self.options.file_stem(index)
        height, width = scene.ground.shape
        if suffix == "":
            self.images.append({"id": index + 1, "file_name": f"{stem}.png", "height": height, "width": width})
        encoded, infos = panoptic_segments(scene, granularity, hidden=hidden)
        self.panoptic[suffix].append({"image_id": index + 1, "file_name": f"{stem}.png", "segments_info": infos})
        for annotation in instance_annotations(scene, granularity, hidden=hidden):
            number = len(self.instances[suffix]) + 1
            self.instances[suffix].append({"id": number, "image_id": index + 1, **annotation})
        return encoded

    def write(self, root: Path) -> None:
        """Write the JSON files."""
        info = {"description": "ShapesWorld", "version": str(GENERATOR_VERSION), "seed": self.options.seed}
        for suffix in self.options.variants:
            for kind, annotations in (("panoptic", self.panoptic[suffix]), ("instance", self.instances[suffix])):
                content = {
                    "info": info,
                    "images": self.images,
                    "annotations": annotations,
                    "categories": categories(self.options.granularity, things_only=kind == "instance"),
                }
                _write_bytes(root / f"{self.stem(kind, suffix)}.json", json.dumps(content).encode())


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


def _write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
