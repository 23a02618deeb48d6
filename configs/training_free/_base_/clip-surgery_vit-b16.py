_base_ = ["./vit-b16.py"]
# Maps that are scaled to [0, 1] class by class show one class well, but do not compete with each other.
model = dict(method="clip_surgery", map_scaling="none", vocabulary=dict(templates="imagenet85"))
