# Long side 896, Pillow's bilinear (antialiased where it shrinks): the test resize of Mask-Adapter.
semantic_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(896, 896), keep_ratio=True, backend="pillow"),
    # after Resize, so that the ground truth keeps its own size
    dict(type="LoadLabelMap"),
    dict(type="PackSegInputs"),
]
panoptic_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(896, 896), keep_ratio=True, backend="pillow"),
    dict(type="LoadPanopticSegments", with_semantic=True),
    dict(type="PackSegments", with_instances=False),
]
