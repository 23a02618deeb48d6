_base_ = ["../../../_base_/datasets/coco_object.py", "../../../_base_/default_runtime.py"]

harness_words = dict(source="coco_object_81", names="synonyms_sclip")
