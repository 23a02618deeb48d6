# The published training, but each image has four views that come again and again, and what the teachers say about a
# view is kept on disk (77 kB each): they are asked at most 4,000 times, not 100,800 times. For your own images:
#   python tools/train.py THIS_FILE \
#       --cfg-options train_dataloader.dataset.data_root=FOLDER train_dataloader.dataset.sample=None
_base_ = ["./clip-dinoiser_vit-b16_1xb16-6k_images-448x448.py"]

model = dict(teacher_cache="work_dirs/clip_dinoiser_targets")
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="FixedViews", views=4, transforms=_base_.train_pipeline[1:-1]),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
