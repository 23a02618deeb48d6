# maftp_l.pth: semantic.
_base_ = ["./model.py"]

model = dict(
    clip=dict(model="convnext_large_d_320", pretrained="laion2b_s29b_b131k_ft_soup"),
    variant="semantic",
    proposals=dict(stage_channels=(192, 384, 768, 1536), embed_dim=768),
)
