# FC-CLIP's training: 16 images per step, 368750 steps (about 50 epochs), decoder and void embedding only.
_base_ = [
    "./fcclip_convnext-l_coco-panoptic-800x1333.py",
    "../_base_/datasets/coco_panoptic_train.py",
    "./_base_/schedule_369k.py",
]

default_hooks = dict(checkpoint=dict(interval=5000))
