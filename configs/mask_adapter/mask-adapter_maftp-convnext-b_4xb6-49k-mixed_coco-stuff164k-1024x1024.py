# Published second phase on MAFT+: 4 GPUs with 6 images each. The void embedding stays as it is in MAFT+'s file.
_base_ = [
    "./mask-adapter_maftp-convnext-b_ade20k-896x896.py",
    "./_base_/coco_stuff_1024.py",
    "./_base_/second_phase.py",
]

# the published adapter learned on the scrambled tokens too: mask_classifier.token_order="legacy" does so again
model = dict(
    base_checkpoint="maft_plus_base",
    mask_classifier=dict(token_order="channels_last"),
    training=dict(phase="mixed", iou_binarise=0.5, detach_target=False, train_void=False),
)
load_from = "work_dirs/mask-adapter_maftp-convnext-b_4xb2-296k_coco-stuff164k-768x768/iter_295717.pth"
optim_wrapper = dict(optimizer=dict(weight_decay=2e-5))
param_scheduler = [dict(_delete_=True, type="PolyLR", power=0.9, eta_min=0.0, begin=0, end=49286, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=5000))
