"""Benchmark data sets and the generated ShapesWorld scenes."""
