"""Frames, reflections and powders with known truth."""
