"""One file per verb of the mmseg-plugins command."""
