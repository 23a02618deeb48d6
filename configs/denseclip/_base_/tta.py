# Multi-scale test as published: ratios 0.5 to 1.75 *of the test scale*, each with and without flip.
# Resize(scale_factor=ratio) would scale the original image instead, which is not the same.
tta_scales_512 = [(1024, 256), (1536, 384), (2048, 512), (2560, 640), (3072, 768), (3584, 896)]
tta_scales_640 = [(1024, 320), (1536, 480), (2048, 640), (2560, 800), (3072, 960), (3584, 1120)]
tta_scales_1024 = [(1024, 512), (1536, 768), (2048, 1024), (2560, 1280), (3072, 1536), (3584, 1792)]
tta_flips = [
    dict(type="RandomFlip", prob=0.0, direction="horizontal"),
    dict(type="RandomFlip", prob=1.0, direction="horizontal"),
]
