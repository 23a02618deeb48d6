# CLIP ViT-B/16: the dense map has the resolution of level 2 (stride 16).
_base_ = ["./r50.py"]

model = dict(
    clip_pretrained="open-clip://ViT-B-16/openai",
    text_dim=512,
    score_concat_index=2,
    backbone=dict(
        _delete_=True,
        type="CLIPVisionTransformer",
        patch_size=16,
        width=768,
        layers=12,
        heads=12,
        output_dim=512,
        input_resolution=640,
        out_indices=[3, 5, 7, 11],
        drop_path_rate=0.1,
    ),
    text_encoder=dict(embed_dim=512),
    context_decoder=dict(visual_dim=512),
    neck=dict(in_channels=[768, 768, 918, 768]),
    data_preprocessor=dict(size=(640, 640)),
    test_cfg=dict(crop_size=(640, 640), stride=(426, 426)),
)
