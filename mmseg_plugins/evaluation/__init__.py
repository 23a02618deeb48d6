"""Metrics, scoring of saved predictions, submissions."""
