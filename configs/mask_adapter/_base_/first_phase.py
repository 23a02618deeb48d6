# First phase: annotated masks alone; 8 images per step, 20 epochs of COCO.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",
    loss_scale="dynamic",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0, norm_type=2),
)
param_scheduler = [dict(type="MultiStepLR", by_epoch=False, milestones=[260231, 283888], gamma=0.1)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=295717, val_interval=295717)
randomness = dict(seed=0)
