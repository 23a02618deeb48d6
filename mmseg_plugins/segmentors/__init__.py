"""What all methods share on the mmseg side."""
