"""Field-by-field checks that the COCO submission types share."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmseg_plugins.evaluation.rle import decode_mask, rle_size
from mmseg_plugins.evaluation.submit_archive import ArchiveReader, CheckReport
from mmseg_plugins.evaluation.submit_images import SubmissionImage

Images = Mapping[str, SubmissionImage]
FieldCheck = tuple[Callable[[object], bool], str]


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


INTEGER: FieldCheck = (_is_integer, "an integer")
NUMBER: FieldCheck = (_is_number, "a finite number")
TEXT: FieldCheck = (lambda value: isinstance(value, str), "text")
LIST: FieldCheck = (lambda value: isinstance(value, list), "a list")
OBJECT: FieldCheck = (lambda value: isinstance(value, dict), "an object")


class CheckContext:
    """What the checks of one archive share.

    Args:
        archive: being checked.
        report: takes the problems.
        images: the test set's images by stem; None leaves ids and sizes unchecked.
        stem: name of the archive's JSON without suffix.
    """

    def __init__(self, archive: ArchiveReader, report: CheckReport, images: Images | None, stem: str) -> None:
        self.archive = archive
        self.report = report
        self.images = images
        self.stem = stem

    @cached_property
    def by_id(self) -> dict[int | str, SubmissionImage]:
        """Image of each id; empty without an image list."""
        return {image.image_id: image for image in (self.images or {}).values()}

    def problem(self, text: str) -> None:
        """Note what the server would reject."""
        self.report.problems.append(text)

    def has_fields(self, entry: object, fields: dict[str, FieldCheck], where: str) -> bool:
        """Check that an entry has the fields of the format, each of the right kind; note the first problem."""
        if not isinstance(entry, dict):
            self.problem(f"{where} is not an object: {str(entry)[:60]}.")
            return False
        for name, (fits, expected) in fields.items():
            if name not in entry:
                self.problem(f"{where} lacks {name!r}.")
                return False
            if not fits(entry[name]):
                self.problem(f"{where}: {name!r} must be {expected}, got {str(entry[name])[:60]!r}.")
                return False
        return True

    def knows_image(self, image_id: int, where: str) -> bool:
        """Check that the image is one of the test set's."""
        if self.images is None or image_id in self.by_id:
            return True
        self.problem(f"{where}: image id {image_id} is not in the image list.")
        return False

    def note_images_without_entry(self, seen: set) -> None:
        """Note images of the test set that the results leave out."""
        missing = set(self.by_id) - seen
        if missing:
            self.problem(f"{len(missing)} images have no entry, the first is {min(missing, key=str)}.")

    def decode(self, entry: dict[str, Any], where: str) -> NDArray[np.bool_] | None:
        """Decode the mask of an entry; None, and a problem noted, where it is damaged or has another size."""
        rle = entry["segmentation"]
        if not isinstance(rle.get("counts"), str):
            kind = type(rle.get("counts")).__name__
            self.problem(f"{where}: segmentation.counts must be compressed text, got {kind}.")
            return None
        try:
            size = rle_size(rle)
            mask = decode_mask(rle).astype(bool)
        except (ValueError, TypeError, OverflowError) as error:
            self.problem(f"{where}: segmentation is no valid RLE: {error}")
            return None
        image = self.by_id.get(entry["image_id"])
        if image is not None and size != image.size:
            self.problem(f"{where}: mask of size {list(size)}, but the image is {list(image.size)} (height, width).")
            return None
        return mask
