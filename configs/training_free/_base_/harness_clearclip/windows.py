# Windows whose sides are no multiples of the patch are padded on all sides.
harness_test = dict(mode="slide", crop_size=(448, 448), stride=(224, 224), logit_scale=50.0, pad_multiple=16)
