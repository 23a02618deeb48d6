# Generated scenes with panoptic ground truth, written by:
#   mmseg-plugins shapes --out data/shapesworld --format both
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadPanopticSegments", with_semantic=True),
    dict(type="PackSegments", with_instances=False),
]
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False, round_up=False),
    dataset=dict(
        type="ShapesWorldPanopticDataset",
        data_root="data/shapesworld",
        split="validation",
        granularity=38,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="PanopticQualityMetric")
test_evaluator = val_evaluator
