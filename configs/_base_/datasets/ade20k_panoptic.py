_base_ = ["./panoptic.py"]

val_dataloader = dict(dataset=dict(type="ADE20KPanopticBenchmark"))
test_dataloader = val_dataloader
