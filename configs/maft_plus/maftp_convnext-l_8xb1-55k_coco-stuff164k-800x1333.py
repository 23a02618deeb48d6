# Published training: 8 GPUs with one image each.
_base_ = ["./maftp_convnext-l_ade20k-800x1333.py", "./_base_/coco_stuff.py", "./_base_/training.py"]

# trained from scratch, so without the scramble of the released weights; checkpoints record it
model = dict(teacher=True, token_order="channels_last")
train_cfg = dict(type="IterBasedTrainLoop", max_iters=55000, val_interval=5000)
param_scheduler = [dict(type="PolyLR", power=0.9, eta_min=0.0, begin=0, end=55000, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=5000))
