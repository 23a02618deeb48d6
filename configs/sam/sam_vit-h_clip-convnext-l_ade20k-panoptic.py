# Masks of SAM ViT-H named by FC-CLIP's ConvNeXt-L, panoptic: each pixel belongs to the smallest mask that holds it.
_base_ = ["./_base_/clip_masks.py", "../_base_/datasets/ade20k_panoptic.py", "../_base_/default_runtime.py"]
model = dict(
    clip=dict(model="convnext_large_d_320", pretrained="laion2b_s29b_b131k_ft_soup"),
    vocabulary=dict(source="ade20k_panoptic_150", names="synonyms_fcclip", templates="vild14"),
    proposals=dict(type="SamProposals", model="vit_h", overlaps="smallest"),
    outputs=dict(panoptic=True),
)
