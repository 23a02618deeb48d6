# Images of one kind of thing or texture: label maps hold 0 for normal and 1 for damaged pixels.
# Set data_root, and model.class_name to what the images show.
_base_ = ["../_base_/datasets/folder.py", "../_base_/default_runtime.py"]

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(240, 240), keep_ratio=False),
    # after Resize, so that the ground truth keeps its own size
    dict(type="LoadLabelMap"),
    dict(type="PackSegInputs"),
]
test_dataloader = dict(
    dataset=dict(data_root="data/inspection", vocabulary=["normal", "damaged"], pipeline=test_pipeline)
)
val_dataloader = test_dataloader

model = dict(
    type="AnoVLSegmentor",
    clip=dict(model="ViT-B-16-plus-240", pretrained="laion400m_e32"),
    class_name="bottle",
    test_cfg=dict(mode="whole"),
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
)
