_base_ = ["./vit-b16.py"]
model = dict(type="ResCLIP", method="naclip")
