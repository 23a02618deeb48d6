# Any backbone, here ImageNet's Swin-T: an attention pool that starts from nothing gives global vector and dense map.
# The visual side has no CLIP weights; the text encoder is that of CLIP ViT-B/16.
_base_ = [
    "./_base_/r50.py",
    "../_base_/datasets/ade20k_150_train.py",
    "./_base_/schedule_80k.py",
    "../_base_/default_runtime.py",
]

model = dict(
    class_names="ade20k",
    clip_pretrained=None,
    text_dim=512,
    backbone=dict(
        _delete_=True,
        type="AttnPoolBackbone",
        in_channels=768,
        output_dim=512,
        grid_size=16,
        num_heads=32,
        backbone=dict(
            type="SwinTransformer",
            embed_dims=96,
            depths=[2, 2, 6, 2],
            num_heads=[3, 6, 12, 24],
            window_size=7,
            drop_path_rate=0.3,
            init_cfg=dict(
                type="Pretrained",
                checkpoint="https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/"
                "swin_tiny_patch4_window7_224_20220317-1cdeb081.pth",
            ),
        ),
    ),
    text_encoder=dict(embed_dim=512, clip_pretrained="open-clip://ViT-B-16/openai"),
    context_decoder=dict(visual_dim=512),
    neck=dict(in_channels=[96, 192, 384, 918]),
)
