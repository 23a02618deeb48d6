"""Pure functions from logits and masks to label maps."""
