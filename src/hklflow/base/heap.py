"""Memory that the C library keeps for the next array.

glibc returns large blocks to the system as soon as they are freed, and the system clears each page
again for the next array. In a step that makes an array of some MB thousands of times, this takes as
long as the computation.
"""

import ctypes

# Parameters of `mallopt` (malloc.h), and bytes: smaller blocks are kept.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 1 << 30


def keep_freed() -> None:
    """Let this process keep what it frees; does nothing without glibc, whose habit this is."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, 2 * _LARGEST - 1)
