_base_ = ["./semantic.py"]

val_dataloader = dict(dataset=dict(type="VOC21Benchmark"))
test_dataloader = val_dataloader
