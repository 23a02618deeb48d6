"""The names of rules and encodings, without any heavy import, so that the command line's help can list them."""

from typing import Literal

AbsentRule = Literal["error", "skip", "zero"]

ABSENT_RULES: dict[str, str] = {
    "error": "a class absent from the ground truth counts 0 once it is predicted and is left out otherwise (mmseg)",
    "skip": "classes absent from the ground truth are left out (current detectron2, COCO stuff)",
    "zero": "every class counts, an absent one as 0 (CSAIL sceneparsing)",
}

# mmseg's groups of figures, in its order; the name of a mean is "m" and the name of the figure.
METRIC_GROUPS: dict[str, tuple[str, ...]] = {
    "mIoU": ("IoU", "Acc"),
    "mDice": ("Dice", "Acc"),
    "mFscore": ("Fscore", "Precision", "Recall"),
}

# What the values of label map files mean.
ENCODINGS: dict[str, str] = {
    "as_stored": "the value is the class index",
    "reduce_zero": "0 is unlabelled, v is class v - 1 (raw ADE20K, VOC-20, Context-59)",
    "add_background": "the ignore value is background (class 0), v is class v + 1",
    "background_last": "0 is background (the last class), v is class v - 1 (PAS-20b labels)",
    "fold_last": "class index; from the last class on everything is background (PAS-20b predictions)",
    "label_ids": "the benchmark's ids (Cityscapes label ids, COCO category ids, raw A-847 ids)",
    "stuff_raw": "pixel value of COCO's stuffthingmaps: category id - 1, 255 unlabelled",
    "object_raw": "the same maps read as COCO-Object: stuff and unlabelled pixels are background",
}
