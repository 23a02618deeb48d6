# The same decoder on ConvNeXt-B, the smaller base of MAFT+.
_base_ = ["./convnext-l.py"]

model = dict(
    clip=dict(model="convnext_base_w_320", pretrained="laion_aesthetic_s13b_b82k_augreg"),
    proposals=dict(stage_channels=(128, 256, 512, 1024), embed_dim=640),
)
