_base_ = [
    "./_base_/fcclip-convnext-l.py",
    "../_base_/datasets/ade20k_panoptic.py",
    "../_base_/pipelines/pillow_896x896.py",
    "../_base_/default_runtime.py",
]

model = dict(vocabulary=dict(source="ade20k_panoptic_150"), outputs=dict(panoptic=True))

test_pipeline = {{_base_.panoptic_pipeline}}
val_dataloader = dict(dataset=dict(pipeline={{_base_.panoptic_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.panoptic_pipeline}}))
