# The panoptic recipe on COCO's instances alone: 80 things, everything else is void. Ours; no figure is known.
_base_ = [
    "./fcclip_convnext-l_coco-instance-800x1333.py",
    "../_base_/datasets/coco_instance_train.py",
    "./_base_/schedule_369k.py",
]

model = dict(train_vocabulary=dict(source="coco_things_80"))
default_hooks = dict(checkpoint=dict(interval=5000))
