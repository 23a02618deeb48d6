# Without guidance: neither DINO nor Segment Anything comes with the package.
_base_ = ["./_base_/shapes-vit.py"]

model = dict(
    type="Trident",
    crop_size=(48, 48),
    stride=(16, 16),
    vfm=dict(type="clip", clip=dict(model="shapesworld"), feature="norm"),
)
