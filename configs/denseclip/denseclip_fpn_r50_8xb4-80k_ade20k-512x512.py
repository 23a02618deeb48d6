_base_ = [
    "./_base_/r50.py",
    "../_base_/datasets/ade20k_150_train.py",
    "./_base_/schedule_80k.py",
    "../_base_/default_runtime.py",
]

model = dict(class_names="ade20k")
