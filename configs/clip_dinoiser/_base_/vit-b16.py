# CLIP as published, and the published evaluation: CLIP's own statistics, short side 448, windows of 448 every 224
# pixels, averages of probabilities. A benchmark's config sets vocabulary and pipeline.
model = dict(
    clip=dict(model="ViT-B-16", pretrained="laion2b_s34b_b88k"),
    vocabulary=dict(source=None, templates="imagenet80"),
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    test_cfg=dict(mode="slide", crop_size=(448, 448), stride=(224, 224)),
)
published_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 448), keep_ratio=True),
    dict(type="LoadLabelMap"),
    dict(type="PackSegInputs"),
]
