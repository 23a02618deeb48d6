_base_ = ["./_base_/resclip_vit-b16.py", "./_base_/harness_naclip/coco_object.py"]

model = dict(
    vocabulary={{_base_.harness_words}},
    test_cfg={{_base_.harness_test}},
    residual=dict(share=0.4),
    feedback=dict(temperature=1.8, threshold=0.11),
)
