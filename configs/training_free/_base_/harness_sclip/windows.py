harness_test = dict(mode="slide", crop_size=(224, 224), stride=(112, 112), logit_scale=40.0)
