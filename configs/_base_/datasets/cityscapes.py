_base_ = ["./semantic.py"]

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 1024), keep_ratio=True),
    dict(type="LoadLabelMap"),
    dict(type="PackSegInputs"),
]
tta_pipeline = [dict(type="LoadImageFromFile"), dict(type="MultiScaleFlip", scale=(2048, 1024))]
val_dataloader = dict(dataset=dict(type="CityscapesBenchmark", pipeline=test_pipeline))
test_dataloader = val_dataloader
