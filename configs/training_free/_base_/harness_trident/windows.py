# The method cuts its windows itself; the whole image is padded to patches.
harness_test = dict(mode="whole", logit_scale=40.0, pad_multiple=16)
harness_windows = dict(crop_size=(336, 336), stride=(224, 224))
