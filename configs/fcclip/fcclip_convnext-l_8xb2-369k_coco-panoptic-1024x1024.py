# FC-CLIP's training: 16 images per step, 368750 steps (about 50 epochs), decoder and void embedding only.
_base_ = ["./fcclip_convnext-l_coco-panoptic-800x1333.py", "../_base_/datasets/coco_panoptic_train.py"]

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
default_hooks = dict(checkpoint=dict(interval=5000))
randomness = dict(seed=0)
