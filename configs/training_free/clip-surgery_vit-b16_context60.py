_base_ = ["./_base_/clip-surgery_vit-b16.py", "./_base_/harness_whole/context60.py"]

model = dict(vocabulary={{_base_.harness_words}}, test_cfg={{_base_.harness_test}})
