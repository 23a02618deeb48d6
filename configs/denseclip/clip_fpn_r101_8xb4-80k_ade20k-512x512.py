_base_ = [
    "./_base_/clip-r101.py",
    "./_base_/ade20k_512.py",
    "./_base_/schedule_80k.py",
    "../_base_/default_runtime.py",
]
