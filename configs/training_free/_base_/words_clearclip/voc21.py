# One word for the background, and one name for each class.
_base_ = ["../words_proxyclip/voc21.py"]

harness_words = dict(background=dict(words=["background"]))
