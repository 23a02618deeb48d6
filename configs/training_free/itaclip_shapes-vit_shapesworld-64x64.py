# The small tower has four blocks.
_base_ = ["./_base_/shapes-vit.py"]

model = dict(method="itaclip", dense=dict(mean_blocks=(0, 1, 2)))
