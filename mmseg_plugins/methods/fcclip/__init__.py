"""FC-CLIP (NeurIPS 2023): masks from a decoder on a frozen convolutional CLIP, named by both."""
