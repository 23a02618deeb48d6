# The two layers that come with the package, trained by the config below with seed 0: runs offline in seconds.
_base_ = ["./clip-dinoiser_shapes-vit_1xb32-300_shapesworld-64x64.py"]

model = dict(layers_pretrained="asset://shapes_clip_dinoiser")
