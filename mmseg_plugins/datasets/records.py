"""What a benchmark's files look like: one declarative record per benchmark, no path anywhere else in the code.

A record names the class file, the places where a split's images and label maps lie (once for mmseg's directory layout,
once for detectron2's), and how label values are encoded there. Data sets, preparation, checks and submissions all read
the same record; `benchmarks.py` holds the table.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

LabelRule = Literal["as_stored", "reduce_zero", "add_background", "background_last"]
"""How stored label values become class indices.

* ``as_stored``: the value is the class index, the ignore value is the ignore value;
* ``reduce_zero``: 0 becomes the ignore value, v becomes v - 1, the ignore value stays;
* ``add_background``: the ignore value becomes 0 (background), v becomes v + 1;
* ``background_last``: 0 (background) becomes the last class index, v becomes v - 1, the ignore value stays.
"""

Task = Literal["semantic", "panoptic", "instance"]


@dataclass(frozen=True)
class LabelEncoding:
    """How the label maps of one layout are encoded.

    Attributes:
        bits: 8 or 16, the depth of the stored label maps.
        ignore_index: value of pixels that no metric counts, before and after decoding.
        rule: how stored values become class indices, see `LabelRule`.
    """

    bits: int = 8
    ignore_index: int = 255
    rule: LabelRule = "as_stored"


@dataclass(frozen=True)
class SplitFiles:
    """Where the files of one split lie, relative to the layout's folder.

    Attributes:
        images: folder of images, searched through all levels.
        labels: folder of label maps (semantic) or of panoptic PNGs; empty where a split has none.
        image_suffix: what follows the stem in an image's name.
        label_suffix: what follows the stem in a label map's name. The whole suffix selects the files, because
            COCO-Stuff and COCO-Object label maps share a folder.
        stems: text file with one stem per line; empty means every image of the folder.
        annotations: JSON of a panoptic or instance split.
    """

    images: str
    labels: str = ""
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"
    stems: str = ""
    annotations: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """All paths that must exist for the split to be usable."""
        return tuple(path for path in (self.images, self.labels, self.stems, self.annotations) if path)


@dataclass(frozen=True)
class Layout:
    """One way of placing a benchmark's files below the data root.

    Attributes:
        name: ``mmseg`` or ``detectron2``.
        folders: places below the data root where the layout may start, tried in this order; ``""`` is the root itself,
            so that a data root pointing straight at the benchmark's folder works too.
        splits: the files of each split.
        encoding: how the label maps are stored in this layout.
    """

    name: Literal["mmseg", "detectron2"]
    folders: tuple[str, ...]
    splits: Mapping[str, SplitFiles]
    encoding: LabelEncoding = field(default_factory=LabelEncoding)


@dataclass(frozen=True)
class BenchmarkRecord:
    """Everything that is particular to a benchmark's files.

    Attributes:
        name: the benchmark's key, as in ``configs/_base_/datasets/<name>.py`` and ``mmseg-plugins prepare <name>``.
        title: for people.
        task: kind of ground truth.
        class_file: name of the class file in the package's assets.
        layouts: known directory layouts, the preferred one first.
        counts: accepted numbers of images for each split; several where published preparations differ.
        release: where the raw data is to be had (nothing is ever downloaded by the toolkit).
        prepared_from: what the preparation reads, empty where the release can be used as it is.
        extra_classes: class names that follow those of the class file.
    """

    name: str
    title: str
    task: Task
    class_file: str
    layouts: tuple[Layout, ...]
    counts: Mapping[str, tuple[int, ...]]
    release: str
    prepared_from: str = ""
    extra_classes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """All split names that some layout knows, in the table's order."""
        return tuple(dict.fromkeys(split for layout in self.layouts for split in layout.splits))

    @property
    def ignore_index(self) -> int:
        """The ignore value of the preferred layout."""
        return self.layouts[0].encoding.ignore_index
