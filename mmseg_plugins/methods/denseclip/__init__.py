"""DenseCLIP (CVPR 2022): a supervised segmentor guided by CLIP's text side."""
