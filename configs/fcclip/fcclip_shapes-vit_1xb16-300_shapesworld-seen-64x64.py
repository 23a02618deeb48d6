# The same with masks for the 30 seen classes only; the other eight are named by CLIP. Training scenes show no object of
# an unseen class. Data first:
#   mmseg-plugins shapes --out data/shapesworld --split validation --format both
#   mmseg-plugins shapes --out data/shapesworld_seen --split train --pairs seen --count 5000 --format coco --seen-only
_base_ = ["./fcclip_shapes-vit_1xb16-300_shapesworld-64x64.py"]

model = dict(
    train_vocabulary=dict(source="shapesworld_38_seen"),
    # chosen on scenes of their own, see docs/fcclip.md: a decoder that trained for a minute is too sure of what it says
    scoring=dict(alpha=0.4, beta=1.0, in_temperature=2.0),
)
train_dataloader = dict(dataset=dict(data_root="data/shapesworld_seen", seen_only=True, renumber_seen=True))
