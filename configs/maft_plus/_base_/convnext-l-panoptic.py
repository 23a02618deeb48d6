# maftp_l_pano.pth: the panoptic variant, whose text transfer computes something else under the same parameter names.
_base_ = ["./convnext-l.py"]

model = dict(
    variant="panoptic",
    train_vocabulary=dict(source="coco_panoptic_133"),
    outputs=dict(panoptic=True),
)
