"""The Python interface: Segmenter, results, drawing."""
