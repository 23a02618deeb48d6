_base_ = ["../../../_base_/datasets/ade20k_150.py", "../../../_base_/default_runtime.py"]

harness_words = dict(source="ade20k_150", names="classes")
