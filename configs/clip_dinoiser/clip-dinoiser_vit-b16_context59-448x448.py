_base_ = ["./_base_/published-layers.py", "../_base_/datasets/context59.py", "../_base_/default_runtime.py"]

model = dict(vocabulary=dict(source="context59", names="names_clip_dinoiser"))
val_dataloader = dict(dataset=dict(pipeline={{_base_.published_pipeline}}))
test_dataloader = val_dataloader
