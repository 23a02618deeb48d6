"""Mask proposals of Segment Anything."""
