_base_ = ["../words_sclip/voc21.py"]

harness_words = dict(names="synonyms_proxyclip")
