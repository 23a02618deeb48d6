# Masks of SAM ViT-H named by CLIP and adapter of a file on FC-CLIP, without retraining. Each pixel belongs to the
# smallest mask that holds it. Nothing was published for this.
_base_ = ["./mask-adapter_fcclip-convnext-l_ade20k-panoptic-896x896.py"]

model = dict(
    # CLIP alone names: masks from elsewhere have no in-vocabulary scores and no void
    scoring=dict(_delete_=True, rule="clip"),
    proposals=dict(_delete_=True, type="SamProposals", model="vit_h", overlaps="smallest"),
    outputs=dict(overlap_threshold=0.5),
)
