_base_ = ["../../../_base_/datasets/voc20.py", "../../../_base_/default_runtime.py"]

harness_words = dict(source="voc20", names="synonyms_sclip")
