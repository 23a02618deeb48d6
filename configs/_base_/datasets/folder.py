# Images of your own: label maps in labels/ have the names of the images in images/.
# Set in your config: data_root, vocabulary (words in the order of the label values) and, if need be, label_rule.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    # after Resize, so that the ground truth keeps its own size
    dict(type="LoadLabelMap"),
    dict(type="PackSegInputs"),
]
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    # round_up=False: running totals must not see a sample twice
    sampler=dict(type="DefaultSampler", shuffle=False, round_up=False),
    dataset=dict(type="FolderDataset", pipeline=test_pipeline),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="OpenVocabularyIoUMetric")
test_evaluator = val_evaluator
