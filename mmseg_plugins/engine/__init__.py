"""Hooks, parameter groups and schedules that mmengine lacks."""
