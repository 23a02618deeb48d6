# The same with the fine-tuned CLIP and the text transfer of a file on MAFT+.
_base_ = ["./mask-adapter_maftp-convnext-l_ade20k-896x896.py"]

model = dict(
    scoring=dict(_delete_=True, rule="clip"),
    proposals=dict(_delete_=True, type="SamProposals", model="vit_h", overlaps="smallest"),
)
