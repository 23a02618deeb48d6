_base_ = ["../../../_base_/datasets/cityscapes.py", "../../../_base_/default_runtime.py"]

harness_words = dict(source="cityscapes_19", names="names_sclip")
