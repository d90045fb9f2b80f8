"""Frames that are left out of a scan, as a person writes them: ``17``, ``100-120``, ``r1:17-18``.

Numbers are those of the raw frames, counted from 0; a range holds both its ends. With a rotation's
name in front an item is for this rotation only, else for every one.
"""

import re
from collections.abc import Iterable, Sequence

_ITEM = re.compile(
    r"(?:(?P<rotation>[A-Za-z0-9][A-Za-z0-9.+-]*):)?(?P<first>[0-9]{1,9})(?:-(?P<last>[0-9]{1,9}))?"
)


def parse(item: str) -> tuple[str | None, int, int]:
    """Rotation (None: every one), first and last frame of an item.

    Raises
    ------
    ValueError
        If it is none.
    """
    found = _ITEM.fullmatch(item)
    if found is not None:
        first = int(found["first"])
        last = first if found["last"] is None else int(found["last"])
        if first <= last:
            return found["rotation"], first, last
    raise ValueError(
        f"{item!r} names no frames: write `17`, `100-120`, or `r1:17-18` for one rotation, with "
        "numbers counted from 0"
    )


def of_rotation(items: Iterable[str], rotation: str) -> tuple[str, ...]:
    """Items that hold for a rotation, without its name."""
    found = ((parse(item)[0], item) for item in items)
    return tuple(
        item if name is None else item.partition(":")[2]
        for name, item in found
        if name in (None, rotation)
    )


def written(frames: Sequence[int]) -> list[str]:
    """Items of frames in rising order, runs as ranges."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    return [f"{first}" if first == last else f"{first}-{last}" for first, last in runs]
