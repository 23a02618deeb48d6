_base_ = ["./vit-b16.py"]
model = dict(method="naclip", pamr=dict(steps=10, dilations=(8, 16)))
