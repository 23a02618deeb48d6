# A tiny Segment Anything with random weights: runs the whole path in seconds and finds nothing of use. The filters are
# off, because it trusts none of its masks.
_base_ = ["./corrclip_shapes-vit_shapesworld-64x64.py"]
model = dict(
    regions=dict(
        _delete_=True,
        type="MaskRegions",
        proposals=dict(
            type="SamProposals",
            model=dict(image_size=64, patch=8, width=32, depth=2),
            automatic=dict(points_per_side=4, pred_iou_thresh=0.0, stability_score_thresh=0.0),
        ),
    ),
)
