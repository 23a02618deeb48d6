# COCO-Stuff as masks: one for every class of the label map. No crop and no jitter, so batches mix sizes; the data
# preprocessor pads them to the largest, rounded up to 32.
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadLabelMap"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True, backend="pillow"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackClassMasks"),
]
train_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="COCOStuff164kBenchmark", data_root=None, split="train", pipeline=train_pipeline),
)
