# COCO-Stuff-164k with the ADE20K recipe; no numbers were published for it.
_base_ = ["../../_base_/datasets/coco_stuff164k_train.py", "./tta.py"]

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
