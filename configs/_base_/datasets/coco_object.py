_base_ = ["./semantic.py"]

val_dataloader = dict(dataset=dict(type="COCOObjectBenchmark"))
test_dataloader = val_dataloader
