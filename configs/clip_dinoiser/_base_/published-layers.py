_base_ = ["./vit-b16.py"]

model = dict(type="CLIPDINOiser", layers_pretrained="clip_dinoiser")
