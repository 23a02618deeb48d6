# Masks from anywhere, named by CLIP alone: nothing is trained, so there is no void and no seen class.
model = dict(
    type="MaskSegmentor",
    scoring=dict(rule="clip"),
    # Masks are sharp and at image resolution: CLIP's features go to them, and not they to CLIP's grid.
    mask_classifier=dict(type="MaskPoolingClassifier", resize="features", attention_pool=False),
    outputs=dict(semantic=True, panoptic=False, object_mask_threshold=0.0, overlap_threshold=0.5),
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size_divisor=32,
        test_cfg=dict(size_divisor=32),
    ),
    test_cfg=dict(mode="whole"),
)
