# OpenAI's CLIP RN50x16, whose attention pool runs once per mask; the decoder names masks empty on the grid.
_base_ = ["./convnext-l.py"]

model = dict(
    clip=dict(model="RN50x16", pretrained="openai"),
    proposals=dict(stage_channels=(384, 768, 1536, 3072), embed_dim=768),
    scoring=dict(valid_only=True),
)
