_base_ = ["./r50.py"]

model = dict(
    clip_pretrained="open-clip://RN101/openai",
    text_dim=512,
    backbone=dict(layers=[3, 4, 23, 3], output_dim=512),
    text_encoder=dict(embed_dim=512),
    context_decoder=dict(visual_dim=512),
)
