_base_ = [
    "./_base_/vit-b.py",
    "./_base_/ade20k_640.py",
    "./_base_/schedule_80k.py",
    "../_base_/default_runtime.py",
]

model = dict(class_names="ade20k")
