# The release's arithmetic (exact GELU, epsilon 1e-6) and ImageNet statistics: the published numbers come from these.
model = dict(
    type="MaskCLIP",
    clip=dict(model="ViT-B-16", pretrained="openai", act="gelu", norm_eps=1e-6),
    vocabulary=dict(source=None, names="names_maskclip", templates="imagenet85"),
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    test_cfg=dict(mode="whole", logit_scale=100.0),
)
