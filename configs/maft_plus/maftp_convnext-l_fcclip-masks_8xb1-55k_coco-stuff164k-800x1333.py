# The same training on the masks of FC-CLIP's released decoder, which stays as it is and sees the original CLIP's
# features: only trunk and text transfer learn. The file is fetched by hand, see docs/fcclip.md.
_base_ = ["./maftp_convnext-l_8xb1-55k_coco-stuff164k-800x1333.py"]

model = dict(
    freeze_generator=True,
    generator_features="original",
    proposals=dict(num_queries=250),
)
load_from = "fcclip_cocopan.pth"
