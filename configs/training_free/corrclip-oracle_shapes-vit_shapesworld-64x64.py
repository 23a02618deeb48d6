# True segments as regions: what CorrCLIP's rules give with perfect masks.
_base_ = ["./corrclip_shapes-vit_shapesworld-64x64.py"]
model = dict(
    regions=dict(_delete_=True, type="MaskRegions", proposals=dict(type="OracleProposals", annotation="classes")),
)
