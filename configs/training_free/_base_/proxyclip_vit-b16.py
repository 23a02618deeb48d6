_base_ = ["./vit-b16.py"]
model = dict(
    type="ProxyCLIP",
    vfm=dict(model="vit_base_patch8_224.dino", pretrained="dino_vitb8", position_resize="scale_factor"),
)
