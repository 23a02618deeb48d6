_base_ = ["./_base_/rn50.py", "../_base_/datasets/coco_stuff164k.py", "../_base_/default_runtime.py"]

model = dict(vocabulary=dict(source="coco_stuff_171"))
