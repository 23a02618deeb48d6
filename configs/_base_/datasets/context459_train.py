_base_ = ["./context459.py", "./semantic_train.py"]

crop_size = (480, 480)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabelMap"),
    dict(type="RandomResize", scale=(520, 520), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75, ignore_index=65535),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(type="Context459Benchmark", pipeline=train_pipeline))
