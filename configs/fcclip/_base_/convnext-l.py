# FC-CLIP as published: frozen ConvNeXt-L, 250 queries, trained on COCO panoptic.
model = dict(
    type="FCCLIP",
    clip=dict(model="convnext_large_d_320", pretrained="laion2b_s29b_b131k_ft_soup"),
    vocabulary=dict(source=None, names="synonyms_fcclip", templates="vild14"),
    train_vocabulary=dict(source="coco_panoptic_133", names="synonyms_fcclip", templates="vild14"),
    proposals=dict(
        type="OpenVocabularyMask2Former",
        stage_channels=(192, 384, 768, 1536),
        embed_dim=768,
        num_queries=250,
    ),
    scoring=dict(rule="ensemble", alpha=0.4, beta=0.8),
    outputs=dict(object_mask_threshold=0.0, overlap_threshold=0.8),
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
