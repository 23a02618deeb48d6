"""Training-free descendants of MaskCLIP: settings of one CLIP tower, and affinities from other networks."""
