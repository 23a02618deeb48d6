# The embedded model names masks of generated scenes, with panoptic ground truth:
#   mmseg-plugins shapes --out data/shapesworld --split validation --format both
_base_ = [
    "./clip_masks.py",
    "../../_base_/datasets/shapesworld_panoptic.py",
    "../../_base_/default_runtime.py",
]
model = dict(
    clip=dict(model="shapesworld_all"),
    # The embedded model's patch tokens are good as they are.
    dense=dict(rule="qk"),
    vocabulary=dict(source="shapesworld_38", templates="imagenet80"),
    outputs=dict(panoptic=True),
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadPanopticSegments", with_semantic=True),
    dict(type="PackSegments"),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
val_evaluator = [
    dict(type="PanopticQualityMetric"),
    dict(type="OpenVocabularyIoUMetric"),
    dict(type="SegmentAccuracyMetric"),
]
test_evaluator = val_evaluator
