# Short side 1024, long side at most 2560, Pillow's bilinear: for street scenes.
semantic_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2560, 1024), keep_ratio=True, backend="pillow"),
    # after Resize, so that the ground truth keeps its own size
    dict(type="LoadLabelMap"),
    dict(type="PackSegInputs"),
]
