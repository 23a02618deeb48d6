_base_ = ["./panoptic.py"]

val_dataloader = dict(dataset=dict(type="COCOPanopticBenchmark"))
test_dataloader = val_dataloader
