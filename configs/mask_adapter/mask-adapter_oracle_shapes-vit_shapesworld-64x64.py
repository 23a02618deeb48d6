# Annotated masks of generated scenes, named through the adapter of a checkpoint (one is shipped:
# mmseg_plugins/assets/shapes_mask_adapter.safetensors): how well it names them, beside
# configs/sam/oracle_shapes-vit_shapesworld-64x64.py, which pools. Data first:
#   mmseg-plugins shapes --out data/shapesworld --split validation --format both
_base_ = ["../sam/_base_/shapesworld_masks.py"]

model = dict(
    type="MaskAdapterSegmentor",
    proposals=dict(type="OracleProposals"),
    mask_classifier=dict(
        _delete_=True, type="MaskAdapterClassifier", embed_dim=96, width=96, num_maps=8, mask_channels=16
    ),
)
