_base_ = ["./vit-b16.py"]
model = dict(
    type="Trident",
    vfm=dict(model="vit_base_patch16_224.dino", pretrained="dino_vitb16", position_resize="scale_factor"),
    guidance=dict(pretrained="sam_vit_b"),
)
