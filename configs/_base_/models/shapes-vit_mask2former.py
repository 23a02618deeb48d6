# The embedded CLIP with a small mask decoder, for generated scenes.
model = dict(
    clip=dict(model="shapesworld_all"),
    # the embedded model's patch tokens are good as they are, see docs/shapesworld.md
    dense=dict(rule="qk"),
    vocabulary=dict(source="shapesworld_38", templates="imagenet80"),
    # One grid of 8 px patches becomes maps of strides 4 to 32.
    pyramid=dict(type="SimplePyramid", width=96, stride=8),
    proposals=dict(
        type="OpenVocabularyMask2Former",
        stage_channels=(48, 96, 96, 96),
        embed_dim=96,
        conv_dim=64,
        mask_dim=64,
        hidden_dim=64,
        num_queries=20,
        encoder_layers=1,
        decoder_layers=3,
        heads=4,
        encoder_ffn=128,
        decoder_ffn=128,
    ),
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
