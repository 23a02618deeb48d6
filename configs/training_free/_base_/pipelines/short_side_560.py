# Keep-ratio resize: short side 560, long side at most 2048.
harness_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 560), keep_ratio=True),
    # after Resize, so that the ground truth keeps its own size
    dict(type="LoadLabelMap"),
    dict(type="PackSegInputs"),
]
