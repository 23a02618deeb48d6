# The CLIP baseline: mmseg's Semantic FPN on CLIP's ResNet, without text.
_base_ = ["./semantic_fpn.py"]

model = dict(
    type="EncoderDecoder",
    backbone=dict(type="CLIPResNet", layers=[3, 4, 6, 3], width=64, clip_pretrained="open-clip://RN50/openai"),
)
