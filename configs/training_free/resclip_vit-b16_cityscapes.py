_base_ = ["./_base_/resclip_vit-b16.py", "./_base_/harness_naclip/cityscapes.py"]

model = dict(
    vocabulary={{_base_.harness_words}},
    test_cfg={{_base_.harness_test}},
    residual=dict(share=0.2),
    feedback=dict(temperature=2.1, share=0.6, threshold=0.1),
)
