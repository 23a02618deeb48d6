# Published second phase on FC-CLIP: 4 GPUs with 6 images each. Decoder and void embedding start from FC-CLIP's file.
_base_ = [
    "./mask-adapter_fcclip-convnext-l_ade20k-896x896.py",
    "./_base_/coco_panoptic_1024.py",
    "./_base_/second_phase.py",
]

model = dict(base_checkpoint="fcclip_convnext_l", training=dict(phase="mixed", iou_binarise=0.4, detach_target=True))
load_from = "work_dirs/mask-adapter_fcclip-convnext-l_4xb2-296k_coco-panoptic-768x768/iter_295717.pth"
default_hooks = dict(checkpoint=dict(interval=5000))
