_base_ = [
    "./_base_/clip-r101.py",
    "../_base_/datasets/ade20k_150_train.py",
    "./_base_/schedule_80k.py",
    "../_base_/default_runtime.py",
]
