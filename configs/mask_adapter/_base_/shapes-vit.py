# A mask adapter on the embedded model and on the decoder of fcclip_shapes-vit_1xb16-300_shapesworld-seen-64x64.py,
# for generated scenes. Masks are known for the 30 seen classes only; CLIP knows all of them.
_base_ = ["../../fcclip/fcclip_shapes-vit_1xb16-300_shapesworld-seen-64x64.py"]

model = dict(
    _delete_=True,
    type="MaskAdapterSegmentor",
    clip={{_base_.model.clip}},
    dense={{_base_.model.dense}},
    vocabulary={{_base_.model.vocabulary}},
    train_vocabulary={{_base_.model.train_vocabulary}},
    pyramid={{_base_.model.pyramid}},
    proposals={{_base_.model.proposals}},
    mask_classifier=dict(type="MaskAdapterClassifier", embed_dim=96, width=96, num_maps=8, mask_channels=16),
    scoring=dict(rule="ensemble", alpha=0.7, beta=0.9),
    outputs={{_base_.model.outputs}},
    data_preprocessor={{_base_.model.data_preprocessor}},
    test_cfg=dict(mode="whole"),
)
