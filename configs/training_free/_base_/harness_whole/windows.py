# Whole images. Neither thresholds nor name lists are published for these methods: those of the SCLIP family serve.
harness_test = dict(mode="whole", logit_scale=100.0)
