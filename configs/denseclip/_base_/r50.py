# CLIP RN50 for 150 classes; the last level has 2048 channels and the score map's 150.
_base_ = ["./semantic_fpn.py"]

model = dict(
    type="DenseCLIP",
    clip_pretrained="open-clip://RN50/openai",
    context_length=5,
    text_dim=1024,
    token_embed_dim=512,
    score_concat_index=3,
    backbone=dict(type="CLIPResNetWithAttention", layers=[3, 4, 6, 3], width=64, output_dim=1024, input_resolution=512),
    text_encoder=dict(
        type="CLIPTextContextEncoder",
        context_length=13,
        embed_dim=1024,
        transformer_width=512,
        transformer_heads=8,
        transformer_layers=12,
    ),
    context_decoder=dict(
        type="ContextDecoder",
        transformer_width=256,
        transformer_heads=4,
        transformer_layers=3,
        visual_dim=1024,
        dropout=0.1,
    ),
    neck=dict(in_channels=[256, 512, 1024, 2198]),
    identity_head=dict(
        type="IdentityHead",
        num_classes=150,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=0.4),
    ),
)
