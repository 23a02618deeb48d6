_base_ = ["./_base_/clip_vit-b16.py", "./_base_/harness_sclip/context59.py"]

model = dict(vocabulary={{_base_.harness_words}}, test_cfg={{_base_.harness_test}})
