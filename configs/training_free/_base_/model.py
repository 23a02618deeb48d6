# What all methods here share: CLIP's statistics, 80 templates.
model = dict(
    type="TrainingFree",
    vocabulary=dict(source=None, templates="imagenet80"),
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
)
