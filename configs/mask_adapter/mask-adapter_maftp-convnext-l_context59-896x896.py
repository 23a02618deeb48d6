_base_ = [
    "./_base_/maftp-convnext-l.py",
    "../_base_/datasets/context59.py",
    "../_base_/pipelines/pillow_896x896.py",
    "../_base_/default_runtime.py",
]

model = dict(vocabulary=dict(source="context59"))

test_pipeline = {{_base_.semantic_pipeline}}
val_dataloader = dict(dataset=dict(pipeline={{_base_.semantic_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.semantic_pipeline}}))
