# Cityscapes with the ADE20K recipe, crops and windows of 512 x 1024; nothing was published for it.
_base_ = ["../../_base_/datasets/cityscapes_train.py", "./tta.py"]

tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=scale, keep_ratio=True) for scale in _base_.tta_scales_1024],
            _base_.tta_flips,
            [dict(type="LoadLabelMap")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
