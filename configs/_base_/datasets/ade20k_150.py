_base_ = ["./semantic.py"]

val_dataloader = dict(dataset=dict(type="ADE20K150Benchmark"))
test_dataloader = val_dataloader
