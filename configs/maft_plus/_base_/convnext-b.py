# maftp_b.pth: semantic only. The name of the file says so too; the option settles it for copies under other names.
_base_ = ["./model.py"]

model = dict(
    clip=dict(model="convnext_base_w_320", pretrained="laion_aesthetic_s13b_b82k_augreg"),
    variant="semantic",
    proposals=dict(stage_channels=(128, 256, 512, 1024), embed_dim=640),
)
