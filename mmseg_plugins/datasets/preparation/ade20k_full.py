"""ADE20K-847: label maps of the 847 classes from the full ADE20K_2021_17_01 release."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mmseg_plugins.datasets.benchmarks import ADE_FULL_FOLDERS, ADE_FULL_RELEASE
from mmseg_plugins.datasets.label_files import save_image, write_label_map
from mmseg_plugins.datasets.preparation.jobs import Job, PrepareOptions, Report, find_folder, run_jobs
from mmseg_plugins.datasets.preparation.restricted_pickle import read_index
from mmseg_plugins.vocabulary.benchmarks import load_benchmark

IGNORE = 65535
SHORT_SIDE = 512  # images whose shorter side exceeds this are shrunk, and evaluated at that size
SPLIT_FOLDERS = {"train": "training", "val": "validation"}
INDEX = "index_ade20k.pkl"


def prepare(options: PrepareOptions) -> Report:
    """Convert images and label maps into ``images_detectron2`` and ``annotations_detectron2``.

    Raises:
        FileNotFoundError: if the release or some ``*_seg.png`` is missing.
        ValueError: if files cannot be read.
    """
    source = find_folder(
        options.root, ADE_FULL_FOLDERS, ["images/ADE"], what="The full ADE20K release", release=ADE_FULL_RELEASE
    )
    target = options.out / "ADE20K_2021_17_01" if source.name != options.out.name else options.out
    if options.out == options.root:
        target = source
    report = Report()
    table = raw_id_table()
    images = sorted(find_images(source / "images" / "ADE"))
    _require_label_files(images)
    for split in options.splits:
        chosen = [path for path in images if split_of(path.name) == split]
        report.counts[split] = len(chosen)
        run_jobs(
            [
                Job(label_path, partial(convert_image, path, image_path, label_path, table))
                for path in chosen
                for image_path, label_path in [_targets(target, split, path.stem)]
            ],
            options,
            report,
            f"ade20k_847 {split}",
        )
    if (source / INDEX).is_file():
        report.notes.append(compare_with_index(source / INDEX, images))
    return report


def find_images(folder: Path) -> Iterator[Path]:
    """All photographs of the release; the part of a name that tells the training split is not fixed."""
    yield from folder.rglob("*.jpg")


def split_of(name: str) -> str:
    """``val`` if the second word of a file name says so, else ``train``."""
    words = name.split("_")
    return "val" if len(words) > 1 and words[1] == "val" else "train"


def raw_id_table() -> NDArray[np.uint16]:
    """(65536,) class index of each raw object id, 65535 for ids of no class."""
    table = np.full(65536, IGNORE, dtype=np.uint16)
    for index, raw_id in enumerate(load_benchmark("ade20k_847")["dataset_ids"]):
        table[raw_id] = index
    return table


def raw_object_ids(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Object ids of a ``*_seg.png``: floor(R / 10) * 256 + G.

    Args:
        colours: (H, W, 3) uint8, RGB.

    Returns:
        (H, W) ids.
    """
    return colours[..., 0].astype(np.int64) // 10 * 256 + colours[..., 1]


def shrunken_size(width: int, height: int) -> tuple[int, int]:
    """(width, height) after shrinking the shorter side to 512, unchanged where it is not longer."""
    short, long = sorted((width, height))
    if short <= SHORT_SIDE:
        return width, height
    new_long = round(long / short * SHORT_SIDE)
    return (new_long, SHORT_SIDE) if width > height else (SHORT_SIDE, new_long)


def convert_image(path: Path, image_path: Path, label_path: Path, table: NDArray[np.uint16]) -> None:
    """Write one image as JPEG and its label map as 16-bit TIFF, the label map last.

    Raises:
        ValueError: if a file is damaged or the two sizes differ.
    """
    label_file = path.with_name(f"{path.stem}_seg.png")
    image, colours = _open_rgb(path), _open_rgb(label_file)
    if image.size != colours.size:
        raise ValueError(f"{path} is {image.size} but {label_file.name} is {colours.size} (width, height).")
    labels = table[raw_object_ids(np.asarray(colours))]
    size = shrunken_size(*image.size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
        nearest = Image.fromarray(labels.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
        labels = np.asarray(nearest).astype(np.uint16)
    save_image(image_path, image)
    write_label_map(label_path, labels, largest=IGNORE)


def compare_with_index(path: Path, images: list[Path]) -> str:
    """Compare the files found with the list in the release's index, which is read without executing anything."""
    listed = set(read_index(path)["filename"])
    found = {image.name for image in images}
    return (
        f"{path.name} lists {len(listed)} images: {len(listed - found)} of them are not on disk, "
        f"{len(found - listed)} on disk are not listed."
    )


def _targets(folder: Path, split: str, stem: str) -> tuple[Path, Path]:
    name = SPLIT_FOLDERS[split]
    return folder / "images_detectron2" / name / f"{stem}.jpg", folder / "annotations_detectron2" / name / f"{stem}.tif"


def _require_label_files(images: list[Path]) -> None:
    missing = [path for path in images if not path.with_name(f"{path.stem}_seg.png").is_file()]
    if missing or not images:
        first = missing[0] if missing else "none found"
        raise FileNotFoundError(
            f"the full ADE20K release is incomplete: {len(missing)} of {len(images)} images have no *_seg.png "
            f"(first: {first}). Unpack the release again; get it from {ADE_FULL_RELEASE}."
        )


def _open_rgb(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error
