_base_ = ["./_base_/clearclip_vit-b16.py", "./_base_/harness_clearclip/voc21.py"]

model = dict(vocabulary={{_base_.harness_words}}, test_cfg={{_base_.harness_test}})
