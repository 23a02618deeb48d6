_base_ = [
    "./_base_/convnext-l.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/pipelines/pillow_800x1333.py",
    "../_base_/default_runtime.py",
]

# as published: panoptic output is on too, so only things stay among the instances
model = dict(
    vocabulary=dict(source="coco_panoptic_133"), outputs=dict(semantic=False, panoptic=True, instance=True, top_k=100)
)

test_pipeline = {{_base_.instance_pipeline}}
val_dataloader = dict(dataset=dict(pipeline={{_base_.instance_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.instance_pipeline}}))
