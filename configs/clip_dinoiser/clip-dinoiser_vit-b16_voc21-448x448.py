# Its vocabulary has a background, so positions without an object become background.
_base_ = ["./_base_/published-layers.py", "../_base_/datasets/voc21.py", "../_base_/default_runtime.py"]

model = dict(vocabulary=dict(source="voc21", names="names_clip_dinoiser"))
val_dataloader = dict(dataset=dict(pipeline={{_base_.published_pipeline}}))
test_dataloader = val_dataloader
