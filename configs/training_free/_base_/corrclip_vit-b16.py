# Masks of Segment Anything while it runs; the paper's are of SAM 2 and others. Maps that were made beforehand:
# regions=dict(_delete_=True, type="FolderRegions", folder="data/region_maps").
_base_ = ["./proxyclip_vit-b16.py"]
model = dict(
    type="CorrCLIP",
    clip=dict(_delete_=True, model="ViT-B-16-quickgelu", pretrained="metaclip_fullcc"),
    vfm=dict(feature="qk"),
    regions=dict(type="MaskRegions", proposals=dict(type="SamProposals", model="vit_h")),
)
