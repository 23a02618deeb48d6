# Trains on generated scenes from the embedded model, in a minute on one CPU core, offline. Data first:
#   mmseg-plugins shapes --out data/shapesworld
_base_ = [
    "./_base_/r50.py",
    "./_base_/schedule_80k.py",
    "../_base_/datasets/shapesworld.py",
    "../_base_/default_runtime.py",
]

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabelMap"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="ShapesWorldDataset", data_root="data/shapesworld", split="train", granularity=38, pipeline=train_pipeline
    ),
)
model = dict(
    clip_pretrained="asset://shapes_clip",
    class_names="shapesworld_38",
    text_dim=96,
    token_embed_dim=96,
    prompts=dict(init="a photo of a"),
    # Patches of 8 pixels: the dense map has the resolution of level 1. The embedded model has four blocks, one a level;
    # exact GELU; and its class token holds its embedding once, unlike the release's.
    score_concat_index=1,
    # Departs from the release's segmentation models (its detection models do this): in so short a training, plain
    # cosines hardly move the neck. False trains the published head.
    is_score_map_scaled=True,
    backbone=dict(
        _delete_=True,
        type="CLIPVisionTransformer",
        patch_size=8,
        width=96,
        layers=4,
        heads=3,
        output_dim=96,
        input_resolution=64,
        out_indices=[0, 1, 2, 3],
        act="gelu",
        is_class_embedding_doubled=False,
    ),
    text_encoder=dict(
        context_length=9,
        embed_dim=96,
        transformer_width=96,
        transformer_heads=3,
        transformer_layers=2,
        act="gelu",
    ),
    context_decoder=dict(transformer_width=64, transformer_heads=2, transformer_layers=2, visual_dim=96),
    neck=dict(in_channels=[96, 134, 96, 96], out_channels=96),
    decode_head=dict(
        in_channels=[96, 96, 96, 96],
        channels=96,
        dropout_ratio=0.0,
        num_classes=38,
        norm_cfg=dict(type="BN"),
    ),
    identity_head=dict(num_classes=38),
    data_preprocessor=dict(size=(64, 64)),
    test_cfg=dict(_delete_=True, mode="whole"),
)
optim_wrapper = dict(optimizer=dict(lr=1e-2))
param_scheduler = [
    dict(type="WarmupPolyLR", total_iters=150, power=0.9, eta_min=1e-6, warmup_iters=40, warmup_ratio=1e-6)
]
train_cfg = dict(max_iters=150, val_interval=150)
default_hooks = dict(checkpoint=dict(interval=50), logger=dict(interval=10))
randomness = dict(seed=0)
sync_bn = None
find_unused_parameters = False
