# Training on generated scenes: all 38 classes are annotated. seen_only=True with renumber_seen=True trains on the masks
# of the 30 seen classes alone, under the class list shapesworld_38_seen.
_base_ = ["./shapesworld_panoptic.py"]

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadPanopticSegments"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegments"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="ShapesWorldPanopticDataset",
        data_root="data/shapesworld",
        split="train",
        granularity=38,
        pipeline=train_pipeline,
    ),
)
