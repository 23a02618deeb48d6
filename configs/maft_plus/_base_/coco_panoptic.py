# As FC-CLIP's, with one image per GPU, and segments that the crop has emptied stay targets, as published.
_base_ = ["../../_base_/datasets/coco_panoptic_train.py"]

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadPanopticSegments"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="LargeScaleJitterCrop", size={{_base_.crop_size}}, scale_range=(0.1, 2.0)),
    dict(type="PackSegments", keep_empty=True),
]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
