"""Spots in frames: search, fit, links between frames, and the peak table."""
