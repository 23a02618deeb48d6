# What the text side is worth: the same training without it, neither in the pyramid nor in the loss.
_base_ = ["./denseclip_fpn_shapes-vit_1xb16-150_shapesworld-64x64.py"]

model = dict(score_concat_index=None, identity_head=None, neck=dict(in_channels=[96, 96, 96, 96]))
find_unused_parameters = True
