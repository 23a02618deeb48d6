_base_ = ["./model.py"]
model = dict(clip=dict(model="ViT-B-16", pretrained="openai"))
