# True masks, named by the embedded model: what naming alone costs.
_base_ = ["./_base_/shapesworld_masks.py"]
model = dict(proposals=dict(type="OracleProposals"))
