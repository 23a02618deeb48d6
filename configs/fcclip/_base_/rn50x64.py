# OpenAI's CLIP RN50x64, whose attention pool runs once per mask; the decoder names masks empty on the grid.
_base_ = ["./convnext-l.py"]

model = dict(
    clip=dict(model="RN50x64", pretrained="openai"),
    proposals=dict(stage_channels=(512, 1024, 2048, 4096), embed_dim=1024),
    scoring=dict(valid_only=True),
)
