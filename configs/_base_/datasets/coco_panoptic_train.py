# COCO panoptic as FC-CLIP and MAFT+ train on it: flip, large-scale jitter, crop of 1024.
crop_size = (1024, 1024)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadPanopticSegments"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="LargeScaleJitterCrop", size=crop_size, scale_range=(0.1, 2.0)),
    # as published, segments that the crop left without a pixel stay targets; False drops them
    dict(type="PackSegments", keep_empty=True),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="COCOPanopticBenchmark", data_root=None, split="train", pipeline=train_pipeline),
)
