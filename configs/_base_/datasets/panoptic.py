# What the panoptic and instance benchmarks share: the ground truth keeps its own size, no padded samples.
data_root = None  # searched: $MMSEG_PLUGINS_DATA, $DETECTRON2_DATASETS, ./data, ./datasets

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="LoadPanopticSegments", with_semantic=True),
    dict(type="PackSegments", with_instances=False),
]
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    # round_up=False: running totals must not see a sample twice
    sampler=dict(type="DefaultSampler", shuffle=False, round_up=False),
    dataset=dict(data_root=data_root, split="val", pipeline=test_pipeline),
)
test_dataloader = val_dataloader

# dicts, not lists: tools/test.py --out sets test_evaluator['output_dir']
val_evaluator = dict(type="PanopticQualityMetric")
test_evaluator = val_evaluator
