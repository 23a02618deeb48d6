# OpenAI's CLIP RN50x4, whose attention pool runs once per mask; the decoder names masks empty on the grid.
_base_ = ["./convnext-l.py"]

model = dict(
    clip=dict(model="RN50x4", pretrained="openai"),
    proposals=dict(stage_channels=(320, 640, 1280, 2560), embed_dim=640),
    scoring=dict(valid_only=True),
)
