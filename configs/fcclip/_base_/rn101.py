# OpenAI's CLIP RN101, whose attention pool runs once per mask; the decoder names masks empty on the grid.
_base_ = ["./convnext-l.py"]

model = dict(
    clip=dict(model="RN101", pretrained="openai"),
    proposals=dict(stage_channels=(256, 512, 1024, 2048), embed_dim=512),
    scoring=dict(valid_only=True),
)
