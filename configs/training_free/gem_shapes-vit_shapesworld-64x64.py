# Half of the blocks have two streams, as published (6 of 12).
_base_ = ["./_base_/shapes-vit.py"]

model = dict(method="gem", dense=dict(first_block=-2), vocabulary=dict(templates=["a photo of a {}."]))
