_base_ = ["./semantic.py"]

val_dataloader = dict(dataset=dict(type="VOC20Benchmark"))
test_dataloader = val_dataloader
