"""Rectangles of a detector's modules, from the gaps between them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def modules_from_gaps(bad: ArrayLike, smallest: int = 16) -> Ints:
    """Return the rectangles (n, 4) of modules between the gaps of a mask.

    A gap is two or more adjacent rows, or columns, that are completely masked within a rectangle.
    The rectangles between gaps are searched again, so that modules need not lie on a grid. A single
    masked line is not a gap: it is a dead row or column.

    Parameters
    ----------
    bad : (slow, fast) bool array
        True for pixels that do not exist.
    smallest : int
        Smallest side of a module in pixels.

    Raises
    ------
    HklflowError
        If no module is left.
    """
    mask: Mask = np.asarray(bad, dtype=np.bool_)
    boxes: list[tuple[int, int, int, int]] = []
    waiting = [(0, mask.shape[0], 0, mask.shape[1])]
    while waiting:
        s0, s1, f0, f1 = box = waiting.pop()
        part = mask[s0:s1, f0:f1]
        rows, columns = (_between_gaps(np.asarray(part.all(axis=i)), smallest) for i in (1, 0))
        parts = [(s0 + a, s0 + b, f0 + c, f0 + d) for a, b in rows for c, d in columns]
        if parts == [box]:
            boxes.append(box)
        else:
            waiting += parts
    if not boxes:
        raise HklflowError(
            f"the mask leaves no module of {smallest} pixels or more between its gaps; use a mask "
            "of the gaps alone"
        )
    return np.array(sorted(boxes), dtype=np.int64)


def _between_gaps(full: Mask, smallest: int) -> list[tuple[int, int]]:
    """Return the (start, stop) of lines between gaps of two or more lines, without masked rims."""
    gap = full.copy()
    gap[1:-1] &= full[:-2] | full[2:]
    edges = np.flatnonzero(np.diff(np.concatenate([[1], gap.astype(np.int8), [1]])))
    runs = edges.reshape(-1, 2).tolist()
    return [(a, b) for a, b in runs if b - a >= smallest]
