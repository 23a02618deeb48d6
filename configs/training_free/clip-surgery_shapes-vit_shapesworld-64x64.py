# All four blocks of the small tower have two streams.
_base_ = ["./_base_/shapes-vit.py"]

model = dict(method="clip_surgery", dense=dict(first_block=0), vocabulary=dict(templates="imagenet85"))
