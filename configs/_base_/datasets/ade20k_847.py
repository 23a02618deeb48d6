_base_ = ["./semantic.py"]

val_dataloader = dict(dataset=dict(type="ADE20K847Benchmark"))
test_dataloader = val_dataloader

val_evaluator = dict(ignore_index=65535)
test_evaluator = val_evaluator
