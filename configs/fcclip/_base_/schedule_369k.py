# 368750 steps of 16 images, about 50 epochs of COCO; decoder and void embedding train.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    dtype="float16",
    loss_scale="dynamic",
    constructor="PartsOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, embed_decay_mult=0.0),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
# The published warm-up of 10 iterations has a factor of 1: none.
param_scheduler = [dict(type="MultiStepLR", by_epoch=False, milestones=[327778, 355092], gamma=0.1)]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=368750, val_interval=368750)
randomness = dict(seed=0)
