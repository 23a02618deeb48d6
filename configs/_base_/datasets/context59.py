_base_ = ["./semantic.py"]

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(520, 520), keep_ratio=True),
    dict(type="LoadLabelMap"),
    dict(type="PackSegInputs"),
]
tta_pipeline = [dict(type="LoadImageFromFile"), dict(type="MultiScaleFlip", scale=(520, 520))]
val_dataloader = dict(dataset=dict(type="Context59Benchmark", pipeline=test_pipeline))
test_dataloader = val_dataloader
