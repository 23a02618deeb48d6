_base_ = ["./_base_/published-layers.py", "../_base_/datasets/coco_stuff164k.py", "../_base_/default_runtime.py"]

model = dict(vocabulary=dict(source="coco_stuff_171"))
val_dataloader = dict(dataset=dict(pipeline={{_base_.published_pipeline}}))
test_dataloader = val_dataloader
