# Any backbone, here one of timm's with ImageNet weights, see the Swin-T config.
_base_ = ["./denseclip_fpn_swin-t_8xb4-80k_ade20k-512x512.py"]

model = dict(
    backbone=dict(
        in_channels=2048,
        backbone=dict(
            _delete_=True, type="TIMMBackbone", model_name="resnet50", pretrained=True, out_indices=[1, 2, 3, 4]
        ),
    ),
    neck=dict(in_channels=[256, 512, 1024, 2198]),
)
