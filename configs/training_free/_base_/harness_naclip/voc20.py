_base_ = ["../words_sclip/voc20.py", "../pipelines/short_side_336.py", "./windows.py"]

val_dataloader = dict(dataset=dict(pipeline={{_base_.harness_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.harness_pipeline}}))
test_pipeline = {{_base_.harness_pipeline}}

harness_test = dict(_delete_=True, mode="whole", logit_scale=40.0)
