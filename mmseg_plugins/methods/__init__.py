"""One folder per published method."""
