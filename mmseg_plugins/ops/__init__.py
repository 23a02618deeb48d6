"""Tensor functions with a compiled twin: mask pooling, label maps from logits."""
