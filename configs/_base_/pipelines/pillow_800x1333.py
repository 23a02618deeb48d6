# Short side 800, long side at most 1333, Pillow's bilinear (antialiased where it shrinks): detectron2's test resize.
semantic_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True, backend="pillow"),
    # after Resize, so that the ground truth keeps its own size
    dict(type="LoadLabelMap"),
    dict(type="PackSegInputs"),
]
panoptic_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True, backend="pillow"),
    dict(type="LoadPanopticSegments", with_semantic=True),
    dict(type="PackSegments", with_instances=False),
]
instance_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True, backend="pillow"),
    dict(type="LoadInstanceMasks"),
    dict(type="PackSegments", keep_empty=True),
]
