_base_ = ["./ade20k_instance.py"]

val_dataloader = dict(dataset=dict(type="COCOInstanceBenchmark"))
test_dataloader = val_dataloader
