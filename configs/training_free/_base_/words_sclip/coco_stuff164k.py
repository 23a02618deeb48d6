_base_ = ["../../../_base_/datasets/coco_stuff164k.py", "../../../_base_/default_runtime.py"]

harness_words = dict(source="coco_stuff_171", names="names_sclip")
