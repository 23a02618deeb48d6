_base_ = ["../words_sclip/voc20.py"]

harness_words = dict(names="synonyms_proxyclip")
