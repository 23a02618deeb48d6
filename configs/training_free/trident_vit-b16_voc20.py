_base_ = ["./_base_/trident_vit-b16.py", "./_base_/harness_trident/voc20.py"]

model = dict(
    vocabulary={{_base_.harness_words}},
    test_cfg={{_base_.harness_test}},
    crop_size={{_base_.harness_windows.crop_size}},
    stride={{_base_.harness_windows.stride}},
)
