# COCO panoptic for the second phase: crop of 1024.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadPanopticSegments"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="LargeScaleJitterCrop", size=(1024, 1024), scale_range=(0.1, 2.0)),
    dict(type="PackSegments"),
]
train_dataloader = dict(
    batch_size=6,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="COCOPanopticBenchmark", data_root=None, split="train", pipeline=train_pipeline),
)
