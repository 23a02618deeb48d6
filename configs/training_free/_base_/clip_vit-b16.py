_base_ = ["./vit-b16.py"]
model = dict(method="clip")
