# Second phase on generated scenes: predictions beside annotated masks. Starts on the decoder and on the first phase:
#   python tools/train.py configs/fcclip/fcclip_shapes-vit_1xb16-300_shapesworld-seen-64x64.py
#   python tools/train.py configs/mask_adapter/mask-adapter_shapes-vit_1xb16-400_shapesworld-64x64.py
_base_ = ["./_base_/shapes-vit.py"]

model = dict(
    base_checkpoint="work_dirs/fcclip_shapes-vit_1xb16-300_shapesworld-seen-64x64/iter_300.pth",
    training=dict(phase="mixed"),
)
load_from = "work_dirs/mask-adapter_shapes-vit_1xb16-400_shapesworld-64x64/iter_400.pth"
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0, norm_type=2),
)
param_scheduler = [dict(type="CosineAnnealingLR", by_epoch=False, eta_min=0.0, begin=0, end=200)]
train_cfg = dict(max_iters=200, val_interval=200)
