# PAMR looks less far than on photographs: the scenes are 64 pixels wide.
_base_ = ["./_base_/shapes-vit.py"]

model = dict(method="naclip", pamr=dict(steps=10, dilations=(1, 2)))
