"""hklflow: single-crystal X-ray rotation data, from raw frames to S(Q) volumes."""

from hklflow._native import preload

__version__ = "0.1.0"

preload()
