# ADE20K as published for the ResNets: crops of 512, test scale (2048, 512).
_base_ = ["../../_base_/datasets/ade20k_150_train.py", "./tta.py"]

tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=scale, keep_ratio=True) for scale in _base_.tta_scales_512],
            _base_.tta_flips,
            [dict(type="LoadLabelMap")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
