# The true mask of each class, named by CLIP ViT-B/16: the most that naming by pooling can reach.
_base_ = ["./_base_/clip_masks.py", "../_base_/datasets/ade20k_150.py", "../_base_/default_runtime.py"]
model = dict(
    clip=dict(model="ViT-B-16", pretrained="openai"),
    dense=dict(rule="qq+kk"),
    vocabulary=dict(source="ade20k_150", templates="imagenet80"),
    proposals=dict(type="OracleProposals", annotation="classes"),
)
