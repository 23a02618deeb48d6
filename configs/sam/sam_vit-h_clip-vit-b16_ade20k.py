# Masks of SAM ViT-H named by CLIP ViT-B/16; needs: pip install 'mmseg_plugins[sam]'
_base_ = ["./_base_/clip_masks.py", "../_base_/datasets/ade20k_150.py", "../_base_/default_runtime.py"]
model = dict(
    clip=dict(model="ViT-B-16", pretrained="openai"),
    dense=dict(rule="qq+kk"),
    vocabulary=dict(source="ade20k_150", templates="imagenet80"),
    proposals=dict(type="SamProposals", model="vit_h"),
)
