# ADE20K as published for ViT-B/16: crops of 640, test scale (2048, 640).
_base_ = ["../../_base_/datasets/ade20k_150_train.py"]

crop_size = (640, 640)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabelMap"),
    dict(type="RandomResize", scale=(2048, 640), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 640), keep_ratio=True),
    dict(type="LoadLabelMap"),
    dict(type="PackSegInputs"),
]
tta_pipeline = [dict(type="LoadImageFromFile"), dict(type="MultiScaleFlip", scale=(2048, 640))]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
