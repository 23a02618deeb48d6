# Masks of SAM ViT-H named by the fine-tuned ConvNeXt-L of MAFT+ and moved text: the generator of the file is left out.
_base_ = ["./maftp_convnext-l_ade20k-panoptic-800x1333.py"]

model = dict(
    proposals=dict(_delete_=True, type="SamProposals", model="vit_h", overlaps="smallest"),
    scoring=dict(rule="clip"),
    # SAM's masks are sharp and at image resolution
    mask_classifier=dict(type="MaskPoolingClassifier", resize="features"),
    outputs=dict(object_mask_threshold=0.0, overlap_threshold=0.5),
)
