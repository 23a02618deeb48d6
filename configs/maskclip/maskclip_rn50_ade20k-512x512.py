_base_ = ["./_base_/rn50.py", "../_base_/datasets/ade20k_150.py", "../_base_/default_runtime.py"]

model = dict(vocabulary=dict(source="ade20k_150"))
