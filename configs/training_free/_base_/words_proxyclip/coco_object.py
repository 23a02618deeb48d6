_base_ = ["../words_sclip/coco_object.py"]

harness_words = dict(names="synonyms_proxyclip")
