_base_ = ["./_base_/vit-b16.py", "../_base_/datasets/cityscapes.py", "../_base_/default_runtime.py"]

model = dict(vocabulary=dict(source="cityscapes_19"))

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1024, 512), keep_ratio=True),
    dict(type="LoadLabelMap"),
    dict(type="PackSegInputs"),
]
tta_pipeline = [dict(type="LoadImageFromFile"), dict(type="MultiScaleFlip", scale=(1024, 512))]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
