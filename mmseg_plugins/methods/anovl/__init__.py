"""AnoVL (arXiv 2308.15939): zero-shot anomaly maps from CLIP's value path and two states in words."""
