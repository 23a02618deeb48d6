# The small tower has four blocks.
_base_ = ["./_base_/shapes-vit.py"]

model = dict(type="ResCLIP", method="naclip", residual=dict(blocks=(1, 2)))
