_base_ = ["./_base_/rn50.py", "../_base_/datasets/voc20.py", "../_base_/default_runtime.py"]

model = dict(vocabulary=dict(source="voc20"))
