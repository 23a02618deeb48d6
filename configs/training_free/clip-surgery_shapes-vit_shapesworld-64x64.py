# Half of the blocks have two streams, as published (6 of 12).
_base_ = ["./_base_/shapes-vit.py"]

# Maps that are scaled to [0, 1] class by class show one class well, but do not compete with each other.
model = dict(
    method="clip_surgery",
    map_scaling="none",
    dense=dict(first_block=-2),
    vocabulary=dict(templates="imagenet85"),
)
