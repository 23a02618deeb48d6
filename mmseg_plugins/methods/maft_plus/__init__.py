"""MAFT+: CLIP's trunk is fine-tuned together with the mask generator, and text rows look at the image."""
