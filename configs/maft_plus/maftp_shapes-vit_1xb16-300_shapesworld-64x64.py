# Trains on generated scenes from the embedded CLIP, on two CPU cores in a few minutes, offline. Masks are known for the
# seen classes only; CLIP knows all of them. Data first:
#   mmseg-plugins shapes --out data/shapesworld --split train validation
_base_ = [
    "../_base_/models/shapes-vit_mask2former.py",
    "../_base_/datasets/shapesworld.py",
    "../_base_/default_runtime.py",
]

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabelMap"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackClassMasks"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="ShapesWorldDataset",
        data_root="data/shapesworld",
        split="train",
        granularity=38,
        seen_only=True,
        pipeline=train_pipeline,
    ),
)
model = dict(
    type="MAFTPlus",
    variant="panoptic",
    token_order="channels_last",
    teacher=True,
    pyramid=dict(detail_channels=32),
    proposals=dict(stage_channels=(80, 96, 96, 96), num_queries=16),
    criterion=dict(num_points=512),
    scoring=dict(rule="void"),
    outputs=dict(object_mask_threshold=0.2, overlap_threshold=0.7),
)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="PartsOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=2e-5),
    paramwise_cfg=dict(lr_mult={"clip.visual.": 0.1}, norm_decay_mult=0.0, embed_decay_mult=0.0),
    clip_grad=dict(max_norm=1.0, norm_type=2),
)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, begin=0, end=300, by_epoch=False)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=300, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=100), logger=dict(interval=20))
randomness = dict(seed=0)
