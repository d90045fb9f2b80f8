"""Simulated frames, reflections and powders with known truth."""
