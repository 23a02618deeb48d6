# The embedded model on generated scenes: runs offline in seconds.
_base_ = ["../_base_/datasets/shapesworld.py", "../_base_/default_runtime.py"]

model = dict(
    type="MaskCLIP",
    clip=dict(model="shapesworld"),
    vocabulary=dict(source="shapesworld_38", templates="imagenet80"),
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    test_cfg=dict(mode="whole", logit_scale=100.0),
)
