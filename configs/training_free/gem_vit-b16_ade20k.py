_base_ = ["./_base_/gem_vit-b16.py", "./_base_/harness_whole/ade20k_150.py"]

model = dict(vocabulary={{_base_.harness_words}}, test_cfg={{_base_.harness_test}})
