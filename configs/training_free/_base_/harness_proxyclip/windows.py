# Windows are padded to multiples of 56, which suits patches of 8 and 14.
harness_test = dict(mode="slide", crop_size=(336, 336), stride=(112, 112), logit_scale=40.0, pad_multiple=56)
