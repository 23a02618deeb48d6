_base_ = ["./clip-r50.py"]

model = dict(backbone=dict(layers=[3, 4, 23, 3], clip_pretrained="open-clip://RN101/openai"))
