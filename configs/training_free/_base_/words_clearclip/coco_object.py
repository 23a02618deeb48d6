# One word for the background, and one name for each class.
_base_ = ["../words_proxyclip/coco_object.py"]

harness_words = dict(background=dict(words=["background"]))
