_base_ = ["./panoptic.py"]

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="LoadInstanceMasks"),
    dict(type="PackSegments", keep_empty=True),
]
val_dataloader = dict(dataset=dict(type="ADE20KInstanceBenchmark", pipeline=test_pipeline))
test_dataloader = val_dataloader

# images without an instance count too; areas are pixel counts, as in the prepared JSON
val_evaluator = dict(_delete_=True, type="InstanceAPMetric")
test_evaluator = val_evaluator
