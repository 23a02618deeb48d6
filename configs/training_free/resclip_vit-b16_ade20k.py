_base_ = ["./_base_/resclip_vit-b16.py", "./_base_/harness_naclip/ade20k_150.py"]

model = dict(
    vocabulary={{_base_.harness_words}},
    test_cfg={{_base_.harness_test}},
    feedback=dict(temperature=2.1, threshold=0.25),
)
