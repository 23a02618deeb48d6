# The published recipe: 8 GPUs with 4 images each. The schedule is the release's exact law (see WarmupPolyLR).
# The text encoder is frozen by model.freeze_text_encoder; with that switched off, its factor of 0 lets it drift as it
# did in the release, because the schedule pulls every rate towards eta_min.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4),
    paramwise_cfg=dict(
        custom_keys={
            "text_encoder": dict(lr_mult=0.0),
            "backbone": dict(lr_mult=0.1),
            "norm": dict(decay_mult=0.0),
        }
    ),
)
param_scheduler = [
    dict(type="WarmupPolyLR", total_iters=80000, power=0.9, eta_min=1e-6, warmup_iters=1500, warmup_ratio=1e-6)
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=80000, val_interval=8000)
sync_bn = "torch"
find_unused_parameters = True
