_base_ = ["./_base_/naclip_vit-b16.py", "./_base_/harness_naclip/coco_stuff164k.py"]

model = dict(vocabulary={{_base_.harness_words}}, test_cfg={{_base_.harness_test}})
