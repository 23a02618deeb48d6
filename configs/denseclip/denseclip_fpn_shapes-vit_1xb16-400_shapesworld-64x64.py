# Trains on generated scenes from the embedded model, on two CPU cores in a few minutes, offline. Data first:
#   mmseg-plugins shapes --out data/shapesworld --split train validation
_base_ = ["../_base_/datasets/shapesworld.py", "../_base_/default_runtime.py"]

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
    type="DenseCLIP",
    clip_pretrained="asset://shapes_clip",
    class_names="shapesworld_38",
    context_length=5,
    text_dim=96,
    token_embed_dim=96,
    # Patches of 8 pixels: the dense map has the resolution of level 1. The embedded model has four blocks, one a level;
    # exact GELU; and its class token holds its embedding once, unlike the release's.
    score_concat_index=1,
    backbone=dict(
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
        type="CLIPTextContextEncoder",
        context_length=9,
        embed_dim=96,
        transformer_width=96,
        transformer_heads=3,
        transformer_layers=2,
        act="gelu",
    ),
    prompts=dict(init="a photo of a"),
    context_decoder=dict(
        type="ContextDecoder", transformer_width=64, transformer_heads=2, transformer_layers=2, visual_dim=96
    ),
    neck=dict(type="FPN", in_channels=[96, 134, 96, 96], out_channels=32, num_outs=4),
    decode_head=dict(
        type="FPNHead",
        in_channels=[32, 32, 32, 32],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=32,
        dropout_ratio=0.1,
        num_classes=38,
        norm_cfg=dict(type="BN", requires_grad=True),
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    identity_head=dict(
        type="IdentityHead",
        num_classes=38,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
    ),
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(64, 64),
    ),
    test_cfg=dict(mode="whole"),
)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=1e-4),
    paramwise_cfg=dict(
        custom_keys={
            "text_encoder": dict(lr_mult=0.0),
            "backbone": dict(lr_mult=0.1),
            "norm": dict(decay_mult=0.0),
        }
    ),
)
param_scheduler = [
    dict(type="WarmupPolyLR", total_iters=400, power=0.9, eta_min=1e-6, warmup_iters=40, warmup_ratio=1e-6)
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=400, val_interval=400)
default_hooks = dict(checkpoint=dict(interval=100), logger=dict(interval=20))
randomness = dict(seed=0)
