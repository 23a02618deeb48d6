# What all semantic benchmarks share: mmseg's test scale 2048 x 512, one image at a time, no padded samples.
# A benchmark's own file sets the data set; <benchmark>_train.py adds the training side.
data_root = None  # searched: $MMSEG_PLUGINS_DATA, $DETECTRON2_DATASETS, ./data, ./datasets

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    # after Resize, so that the ground truth keeps its own size
    dict(type="LoadLabelMap"),
    dict(type="PackSegInputs"),
]
# ratios 0.5 to 1.75 of the test scale, with and without flip; a benchmark with another test scale has its own
tta_pipeline = [dict(type="LoadImageFromFile"), dict(type="MultiScaleFlip", scale=(2048, 512))]
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
val_evaluator = dict(type="OpenVocabularyIoUMetric")
test_evaluator = val_evaluator
