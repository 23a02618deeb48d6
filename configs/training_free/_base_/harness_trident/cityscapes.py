_base_ = ["../words_sclip/cityscapes.py", "../pipelines/short_side_688.py", "./windows.py"]

val_dataloader = dict(dataset=dict(pipeline={{_base_.harness_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.harness_pipeline}}))
test_pipeline = {{_base_.harness_pipeline}}
