# The embedded model on generated scenes: runs offline in seconds.
_base_ = ["./model.py", "../../_base_/datasets/shapesworld.py", "../../_base_/default_runtime.py"]
model = dict(
    clip=dict(model="shapesworld"),
    vocabulary=dict(source="shapesworld_38"),
    test_cfg=dict(mode="whole", logit_scale=100.0),
)
