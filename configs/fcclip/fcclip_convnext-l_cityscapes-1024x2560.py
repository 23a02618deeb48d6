_base_ = [
    "./_base_/convnext-l.py",
    "../_base_/datasets/cityscapes.py",
    "../_base_/pipelines/pillow_1024x2560.py",
    "../_base_/default_runtime.py",
]

# as published: the same run gives panoptic output too, so masks are resized before the sum
model = dict(vocabulary=dict(source="cityscapes_19"), outputs=dict(resize_order="masks"))

test_pipeline = {{_base_.semantic_pipeline}}
val_dataloader = dict(dataset=dict(pipeline={{_base_.semantic_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.semantic_pipeline}}))
