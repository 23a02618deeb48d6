_base_ = ["../../../_base_/datasets/context59.py", "../../../_base_/default_runtime.py"]

harness_words = dict(source="context59", names="classes")
