_base_ = ["./_base_/shapes-vit.py"]

model = dict(method="clearclip")
