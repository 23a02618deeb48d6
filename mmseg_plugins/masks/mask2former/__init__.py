"""Mask2Former's proposals with open-vocabulary class logits, as FC-CLIP uses them, in plain PyTorch."""
