# The same on MAFT+'s ConvNeXt-B. The threshold and alpha belong to the base.
_base_ = ["./maftp-convnext-l.py"]

model = dict(
    clip=dict(model="convnext_base_w_320", pretrained="laion_aesthetic_s13b_b82k_augreg"),
    proposals=dict(stage_channels=(128, 256, 512, 1024), embed_dim=640),
    text_transfer=dict(embed_dim=640),
    mask_classifier=dict(embed_dim=640, threshold=0.45),
    scoring=dict(alpha=0.7),
)
