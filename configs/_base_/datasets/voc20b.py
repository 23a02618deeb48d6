_base_ = ["./semantic.py"]

val_dataloader = dict(dataset=dict(type="VOC20BackgroundBenchmark"))
test_dataloader = val_dataloader
