# Key smoothing and prompt denoising, as in the release's *_kspd variants.
_base_ = ["./rn50.py"]
model = dict(ks_thresh=1.0, pd_thresh=0.5)
