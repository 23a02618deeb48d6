"""Converters from the raw releases to the label maps that the benchmarks are evaluated on."""
