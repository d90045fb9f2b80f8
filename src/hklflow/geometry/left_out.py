"""Text of the frames to leave out of a scan: ``17``, ``100-120``, ``r1:17-18``.

Numbers are raw frame numbers, counted from 0; a range includes both ends. An item that begins with
the name of a rotation applies only to this rotation; other items apply to all rotations.
"""

import re
from collections.abc import Iterable, Sequence

_ITEM = re.compile(
    r"(?:(?P<rotation>[A-Za-z0-9][A-Za-z0-9.+-]*):)?(?P<first>[0-9]{1,9})(?:-(?P<last>[0-9]{1,9}))?"
)


def parse(item: str) -> tuple[str | None, int, int]:
    """Return rotation (None: all), first and last frame of an item.

    Raises
    ------
    ValueError
        If the item is malformed.
    """
    match = _ITEM.fullmatch(item)
    if match is not None:
        first = int(match["first"])
        last = first if match["last"] is None else int(match["last"])
        if first <= last:
            return match["rotation"], first, last
    raise ValueError(
        f"{item!r} names no frames: write `17`, `100-120`, or `r1:17-18` for one rotation, with "
        "numbers counted from 0"
    )


def of_rotation(items: Iterable[str], rotation: str) -> tuple[str, ...]:
    """Return the items that apply to a rotation, without the rotation's name."""
    parsed = ((parse(item)[0], item) for item in items)
    return tuple(
        item if name is None else item.partition(":")[2]
        for name, item in parsed
        if name in (None, rotation)
    )


def written(frames: Sequence[int]) -> list[str]:
    """Return the items for frames in increasing order, with ranges for consecutive frames."""
    runs: list[list[int]] = []
    for frame in frames:
        if runs and frame == runs[-1][1] + 1:
            runs[-1][1] = frame
        else:
            runs.append([frame, frame])
    return [f"{first}" if first == last else f"{first}-{last}" for first, last in runs]
