# Region maps are made beforehand: a file for each image, under its stem. Other sources: model.regions.
_base_ = ["./proxyclip_vit-b16.py"]
model = dict(
    type="CorrCLIP",
    clip=dict(_delete_=True, model="ViT-B-16-quickgelu", pretrained="metaclip_fullcc"),
    vfm=dict(feature="qk"),
    regions=dict(type="FolderRegions", folder="data/region_maps"),
)
