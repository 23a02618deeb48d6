# No DINO comes with the package: the embedded model itself says which places belong together.
_base_ = ["./_base_/shapes-vit.py"]

model = dict(type="ProxyCLIP", vfm=dict(type="clip", clip=dict(model="shapesworld"), feature="norm"))
