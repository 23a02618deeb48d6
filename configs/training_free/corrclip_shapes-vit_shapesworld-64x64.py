# Areas of one colour stand in for a mask generator, the embedded model for DINO.
_base_ = ["./_base_/shapes-vit.py"]

model = dict(
    type="CorrCLIP",
    spatial_blocks=2,
    regions=dict(type="ColourRegions"),
    vfm=dict(type="clip", clip=dict(model="shapesworld"), feature="qk"),
)
