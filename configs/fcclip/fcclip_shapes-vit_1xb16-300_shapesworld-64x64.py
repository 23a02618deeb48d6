# Trains on generated scenes from the embedded model, on two CPU cores in about a minute, offline. Data first:
#   mmseg-plugins shapes --out data/shapesworld --split validation --format both
#   mmseg-plugins shapes --out data/shapesworld --split train --count 6000 --format coco
_base_ = ["../_base_/datasets/shapesworld_panoptic_train.py", "../_base_/default_runtime.py"]

model = dict(
    type="FCCLIP",
    clip=dict(model="shapesworld_all"),
    # the embedded model's patch tokens are good as they are, see docs/shapesworld.md
    dense=dict(rule="qk"),
    vocabulary=dict(source="shapesworld_38", templates="imagenet80"),
    train_vocabulary=dict(source="shapesworld_38", templates="imagenet80"),
    # One grid of 8 px patches becomes maps of strides 4 to 32.
    pyramid=dict(type="SimplePyramid", width=96, stride=8),
    proposals=dict(
        type="OpenVocabularyMask2Former",
        stage_channels=(48, 96, 96, 96),
        embed_dim=96,
        conv_dim=64,
        mask_dim=64,
        hidden_dim=64,
        num_queries=20,
        encoder_layers=1,
        decoder_layers=3,
        heads=4,
        encoder_ffn=128,
        decoder_ffn=128,
        norm_groups=8,
    ),
    criterion=dict(num_points=256),
    scoring=dict(rule="ensemble", alpha=0.4, beta=0.8),
    outputs=dict(semantic=True, panoptic=True, object_mask_threshold=0.0, overlap_threshold=0.8),
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size_divisor=32,
        test_cfg=dict(size_divisor=32),
    ),
    test_cfg=dict(mode="whole"),
)
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="PartsOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, embed_decay_mult=0.0),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", by_epoch=False, start_factor=0.05, begin=0, end=20),
    dict(type="MultiStepLR", by_epoch=False, milestones=[240], gamma=0.1),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=300, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=100), logger=dict(interval=50))
randomness = dict(seed=0)
