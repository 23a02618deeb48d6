# The published runs decide the background by objectness on VOC-21 and COCO-Object, and not here.
_base_ = ["./_base_/published-layers.py", "../_base_/datasets/context60.py", "../_base_/default_runtime.py"]

model = dict(vocabulary=dict(source="context60", names="names_clip_dinoiser"), use_background=False)
val_dataloader = dict(dataset=dict(pipeline={{_base_.published_pipeline}}))
test_dataloader = val_dataloader
