_base_ = ["../../../_base_/datasets/voc21.py", "../../../_base_/default_runtime.py"]

harness_words = dict(source="voc21", names="synonyms_sclip")
