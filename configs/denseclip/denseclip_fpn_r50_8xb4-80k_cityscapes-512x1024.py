_base_ = [
    "./_base_/r50.py",
    "../_base_/datasets/cityscapes_train.py",
    "./_base_/schedule_80k.py",
    "../_base_/default_runtime.py",
]

model = dict(
    class_names="cityscapes",
    neck=dict(in_channels=[256, 512, 1024, 2067]),
    decode_head=dict(num_classes=19),
    identity_head=dict(num_classes=19),
    data_preprocessor=dict(size=(512, 1024)),
    test_cfg=dict(crop_size=(512, 1024), stride=(341, 682)),
)
