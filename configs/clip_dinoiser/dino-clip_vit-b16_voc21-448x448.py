# The teachers themselves at test time: what the two layers imitate.
_base_ = ["./_base_/vit-b16.py", "../_base_/datasets/voc21.py", "../_base_/default_runtime.py"]

model = dict(type="DinoCLIP", vocabulary=dict(source="voc21", names="names_clip_dinoiser"))
val_dataloader = dict(dataset=dict(pipeline={{_base_.published_pipeline}}))
test_dataloader = val_dataloader
