# Published first phase on MAFT+: 4 GPUs with 2 images each.
_base_ = [
    "./mask-adapter_maftp-convnext-b_ade20k-896x896.py",
    "./_base_/coco_stuff_768.py",
    "./_base_/first_phase.py",
]

# the published adapter learned on the scrambled tokens too: mask_classifier.token_order="legacy" does so again
model = dict(
    training=dict(phase="ground_truth"),
    base_checkpoint="maft_plus_base",
    mask_classifier=dict(token_order="channels_last"),
)
default_hooks = dict(checkpoint=dict(interval=5000))
# CLIP and decoder come from base_checkpoint, so checkpoints hold what was trained
custom_hooks = [dict(type="HarnessHook"), dict(type="CheckpointParts", parts=("mask_classifier.", "void_embedding."))]
