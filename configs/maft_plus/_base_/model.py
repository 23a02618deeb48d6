# What MAFT+'s models share: 100 queries from a Mask2Former decoder, CLIP names the masks, the decoder only gives void.
model = dict(
    type="MAFTPlus",
    vocabulary=dict(source=None, names="synonyms_fcclip", templates="vild14"),
    # also the classes that count as seen, should a file of FC-CLIP be loaded
    train_vocabulary=dict(source="coco_stuff_171", names="synonyms_fcclip", templates="vild14"),
    proposals=dict(type="OpenVocabularyMask2Former", num_queries=100),
    scoring=dict(rule="void"),
    outputs=dict(object_mask_threshold=0.2, overlap_threshold=0.7),
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
