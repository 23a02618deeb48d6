_base_ = ["./_base_/vit-b16.py", "../_base_/datasets/context59.py", "../_base_/default_runtime.py"]

model = dict(vocabulary=dict(source="context59"))
