# Mask-Adapter on MAFT+ as published: a fine-tuned trunk, text rows that look at the image, scrambled tokens.
# The threshold, alpha and beta belong to the base.
_base_ = ["../../maft_plus/_base_/convnext-b.py"]

model = dict(
    _delete_=True,
    type="MaskAdapterSegmentor",
    clip={{_base_.model.clip}},
    vocabulary={{_base_.model.vocabulary}},
    train_vocabulary={{_base_.model.train_vocabulary}},
    proposals={{_base_.model.proposals}},
    # published files were trained on the scrambled tokens; the adapter's own order is settled by what is loaded
    text_transfer=dict(
        type="ContentDependentTransfer", embed_dim=640, heads=8, variant={{_base_.model.variant}}, token_order="legacy"
    ),
    mask_classifier=dict(type="MaskAdapterClassifier", embed_dim=640, threshold=0.45),
    scoring=dict(rule="ensemble", alpha=0.7, beta=1.0),
    outputs={{_base_.model.outputs}},
    data_preprocessor={{_base_.model.data_preprocessor}},
    test_cfg=dict(mode="whole"),
)
