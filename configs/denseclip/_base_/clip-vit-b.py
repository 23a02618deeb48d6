_base_ = ["./clip-r50.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        type="CLIPVisionTransformer",
        patch_size=16,
        width=768,
        layers=12,
        heads=12,
        input_resolution=640,
        out_indices=[3, 5, 7, 11],
        drop_path_rate=0.0,
        get_embeddings=False,
        clip_pretrained="open-clip://ViT-B-16/openai",
    ),
    neck=dict(in_channels=[768, 768, 768, 768]),
    data_preprocessor=dict(size=(640, 640)),
    test_cfg=dict(crop_size=(640, 640), stride=(426, 426)),
)
