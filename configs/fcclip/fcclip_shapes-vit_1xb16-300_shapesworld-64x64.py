# Trains on generated scenes from the embedded model, on two CPU cores in about a minute, offline. Data first:
#   mmseg-plugins shapes --out data/shapesworld --split validation --format both
#   mmseg-plugins shapes --out data/shapesworld --split train --count 6000 --format coco
_base_ = [
    "../_base_/models/shapes-vit_mask2former.py",
    "../_base_/datasets/shapesworld_panoptic_train.py",
    "../_base_/default_runtime.py",
]

model = dict(
    type="FCCLIP",
    train_vocabulary=dict(source="shapesworld_38", templates="imagenet80"),
    proposals=dict(norm_groups=8),
    criterion=dict(num_points=256),
    scoring=dict(rule="ensemble", alpha=0.4, beta=0.8),
    outputs=dict(semantic=True, panoptic=True, object_mask_threshold=0.0, overlap_threshold=0.8),
)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="PartsOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, embed_decay_mult=0.0),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", by_epoch=False, start_factor=0.05, begin=0, end=20),
    dict(type="MultiStepLR", by_epoch=False, milestones=[240], gamma=0.1),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=300, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=100), logger=dict(interval=50))
randomness = dict(seed=0)
