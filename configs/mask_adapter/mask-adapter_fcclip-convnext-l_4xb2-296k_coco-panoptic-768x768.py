# Published first phase on FC-CLIP: 4 GPUs with 2 images each.
_base_ = [
    "./mask-adapter_fcclip-convnext-l_ade20k-896x896.py",
    "./_base_/coco_panoptic_768.py",
    "./_base_/first_phase.py",
]

model = dict(training=dict(phase="ground_truth"), base_checkpoint="fcclip_convnext_l")
default_hooks = dict(checkpoint=dict(interval=5000))
# CLIP and decoder come from base_checkpoint, so checkpoints hold what was trained
custom_hooks = [dict(type="HarnessHook"), dict(type="CheckpointParts", parts=("mask_classifier.", "void_embedding."))]
