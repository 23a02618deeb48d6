_base_ = ["./vit-b16.py"]
model = dict(clip=dict(_delete_=True, model="RN50", pretrained="openai"))
