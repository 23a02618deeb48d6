# The published training of the two layers: 1,000 of ImageNet's training images, or any folder of your own:
#   python tools/train.py THIS_FILE \
#       --cfg-options train_dataloader.dataset.data_root=FOLDER train_dataloader.dataset.sample=None
_base_ = ["./_base_/vit-b16.py", "../_base_/default_runtime.py"]

crop_size = (448, 448)
model = dict(
    type="CLIPDINOiser",
    clip=dict(text=False),  # words play no part in training
    vocabulary=dict(source=["any"]),
    teacher=dict(type="DinoFoundTeacher"),
    data_preprocessor=dict(size=crop_size),
)
# A new view each time, as published. The config with "views" in its name asks the teachers once about each view.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(100000, 448), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="RandomFlip", prob=0.5),
    dict(type="RandomBrightness", strength=0.5),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="UnlabelledImages", data_root="data/imagenet/train", sample=1000, seed=0, pipeline=train_pipeline
    ),
)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=5e-5, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys={"bkg_decoder": dict(lr_mult=200.0)}),  # 1e-2
)
# 100 epochs of 63 steps; the rate falls at a step, not at an epoch
train_cfg = dict(type="IterBasedTrainLoop", max_iters=6300)
param_scheduler = [dict(type="MultiStepLR", milestones=[5000], gamma=0.1, by_epoch=False)]
val_cfg = None
test_cfg = None
default_hooks = dict(checkpoint=dict(interval=1000))
custom_hooks = [dict(type="CheckpointParts", parts=("layers.",))]
randomness = dict(seed=0)
