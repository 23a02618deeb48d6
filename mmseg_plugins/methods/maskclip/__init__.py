"""MaskCLIP (ECCV 2022): dense labels from a frozen CLIP."""
