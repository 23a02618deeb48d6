_base_ = ["../../../_base_/datasets/context60.py", "../../../_base_/default_runtime.py"]

harness_words = dict(source="context60", names="names_sclip")
