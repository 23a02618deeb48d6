# Second phase: predictions beside annotated masks; 24 images per step, 10 epochs of COCO.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",
    loss_scale="dynamic",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0, norm_type=2),
)
param_scheduler = [dict(type="MultiStepLR", by_epoch=False, milestones=[43371, 47314], gamma=0.1)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=49286, val_interval=49286)
randomness = dict(seed=0)
