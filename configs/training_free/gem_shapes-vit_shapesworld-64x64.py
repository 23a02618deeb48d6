# All four blocks of the small tower have two streams.
_base_ = ["./_base_/shapes-vit.py"]

model = dict(method="gem", dense=dict(first_block=0), vocabulary=dict(templates=["a photo of a {}."]))
