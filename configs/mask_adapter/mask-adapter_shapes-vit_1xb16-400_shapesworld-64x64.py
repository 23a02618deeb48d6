# First phase on generated scenes: annotated masks alone, on two CPU cores in about two minutes, offline. Data first:
#   mmseg-plugins shapes --out data/shapesworld_seen --split train --pairs seen --format both --seen-only
#   mmseg-plugins shapes --out data/shapesworld --split validation --format both
# Give the decoder for scoring with model.base_checkpoint=FILE of the base's training; training does without.
_base_ = ["./_base_/shapes-vit.py"]

model = dict(training=dict(phase="ground_truth"))
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=3e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", by_epoch=False, start_factor=0.05, begin=0, end=20),
    dict(type="CosineAnnealingLR", by_epoch=False, eta_min=0.0, begin=20, end=400),
]
train_cfg = dict(max_iters=400, val_interval=400)
# the decoder has no weights unless base_checkpoint names some
val_cfg = None
val_dataloader = None
val_evaluator = None
