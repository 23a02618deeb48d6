_base_ = ["./_base_/published-layers.py", "../_base_/datasets/ade20k_150.py", "../_base_/default_runtime.py"]

model = dict(vocabulary=dict(source="ade20k_150"))
val_dataloader = dict(dataset=dict(pipeline={{_base_.published_pipeline}}))
test_dataloader = val_dataloader
