# The published optimiser: AdamW with a tenth of the rate for the trunk of CLIP, no decay for norm layers and embeddings
# (layer scales are decayed), gradients clipped at 0.01 over the whole model, mixed precision. Everything is trained
# together from the weights of CLIP; no trained decoder is loaded.
optim_wrapper = dict(
    type="AmpOptimWrapper",
    constructor="PartsOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=2e-5),
    paramwise_cfg=dict(lr_mult={"clip.visual.": 0.1}, norm_decay_mult=0.0, embed_decay_mult=0.0),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
randomness = dict(seed=123)
