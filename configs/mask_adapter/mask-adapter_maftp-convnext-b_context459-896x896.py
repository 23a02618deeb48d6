_base_ = [
    "./_base_/maftp-convnext-b.py",
    "../_base_/datasets/context459.py",
    "../_base_/pipelines/pillow_896x896.py",
    "../_base_/default_runtime.py",
]

model = dict(vocabulary=dict(source="context459"))

test_pipeline = {{_base_.semantic_pipeline}}
val_dataloader = dict(dataset=dict(pipeline={{_base_.semantic_pipeline}}))
test_dataloader = dict(dataset=dict(pipeline={{_base_.semantic_pipeline}}))

# figures compare over the classes that occur in the ground truth
val_evaluator = dict(absent="skip")
test_evaluator = dict(absent="skip")
