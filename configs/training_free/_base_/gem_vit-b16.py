_base_ = ["./vit-b16.py"]
model = dict(method="gem", vocabulary=dict(templates=["a photo of a {}."]))
