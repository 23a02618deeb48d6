_base_ = ["./semantic.py"]

val_dataloader = dict(dataset=dict(type="COCOStuff10kBenchmark"))
test_dataloader = val_dataloader
