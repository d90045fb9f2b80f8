"""hklflow: single-crystal X-ray rotation data, from raw frames to S(Q) volumes."""

from pathlib import Path

from hklflow.base import kernel_cache
from hklflow.base.native import preload

__version__ = "0.1.0"

kernel_cache.choose(Path(__file__).parent)
preload()
