# COCO's instances for a mask decoder: the panoptic recipe's flip, large-scale jitter and crop, on polygons and run
# lengths instead of a segment map. Images without an instance, and instances that the crop left without a pixel, go.
crop_size = (1024, 1024)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadInstanceMasks", with_crowd=False),
    # mmseg's RandomFlip does not turn instance masks
    dict(type="LargeScaleJitterCrop", size=crop_size, scale_range=(0.1, 2.0), flip_prob=0.5),
    dict(type="PackSegments"),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="COCOInstanceBenchmark", data_root=None, split="train", filter_empty=True, pipeline=train_pipeline
    ),
)
