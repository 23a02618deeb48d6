# Mask-Adapter on FC-CLIP's ConvNeXt-L as published; the threshold, alpha and beta belong to the base.
_base_ = ["../../fcclip/_base_/convnext-l.py"]

model = dict(
    type="MaskAdapterSegmentor",
    mask_classifier=dict(type="MaskAdapterClassifier", embed_dim=768, threshold=0.5),
    scoring=dict(rule="ensemble", alpha=0.7, beta=0.9),
)
