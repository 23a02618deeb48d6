_base_ = ["../words_clearclip/voc21.py", "../pipelines/short_side_448.py", "./windows.py"]

val_dataloader = dict(dataset=dict(pipeline={{_base_.harness_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.harness_pipeline}}))
test_pipeline = {{_base_.harness_pipeline}}

harness_words = dict(background=dict(threshold=0.5))
