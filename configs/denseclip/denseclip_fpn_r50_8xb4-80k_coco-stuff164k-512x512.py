_base_ = [
    "./_base_/r50.py",
    "../_base_/datasets/coco_stuff164k_train.py",
    "./_base_/schedule_80k.py",
    "../_base_/default_runtime.py",
]

model = dict(
    class_names="coco-stuff164k",
    neck=dict(in_channels=[256, 512, 1024, 2219]),
    decode_head=dict(num_classes=171),
    identity_head=dict(num_classes=171),
)
