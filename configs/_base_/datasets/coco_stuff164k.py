_base_ = ["./semantic.py"]

val_dataloader = dict(dataset=dict(type="COCOStuff164kBenchmark"))
test_dataloader = val_dataloader
