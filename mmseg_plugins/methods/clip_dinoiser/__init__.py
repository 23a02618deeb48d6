"""CLIP-DINOiser (ECCV 2024): CLIP's dense features, averaged over what belongs together."""
