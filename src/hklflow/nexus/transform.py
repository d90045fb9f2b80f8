"""The two volumes of a transform: with everything, and without what the 3-D mask excludes."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.core.grid import Grid
from hklflow.nexus.volume import PLANES, VolumeWriter

Floats = NDArray[np.float64]


class TransformWriter:
    """Write both volumes layer by layer.

    Parameters
    ----------
    path, masked_path : Path
    grid : Grid
    cell : (6,) array
        Å and degrees.
    counts_dtype : numpy dtype
        Of the counts as stored.
    """

    def __init__(
        self, path: Path, masked_path: Path, grid: Grid, cell: Floats, counts_dtype: Any
    ) -> None:
        titles = ("counts and norm, all", "counts and norm, without the 3-D mask")
        self._writers = [
            VolumeWriter(where, grid, cell, title, counts_dtype, False, fast=True)
            for where, title in zip((path, masked_path), titles, strict=True)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> "TransformWriter":
        with ExitStack() as stack:
            for writer in self._writers:
                stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, layers: Iterable[tuple[int, *tuple[NDArray[Any], ...]]]) -> None:
        """Write layers of planes.

        Parameters
        ----------
        layers
            In order: first plane, counts and norm (n, k, h) of everything, and counts and norm
            without the mask's pixels; see `hklflow.core.binning.Accumulator.layers`.
        """
        held: list[tuple[int, *tuple[NDArray[Any], ...]]] = []
        for layer in layers:
            # Chunks of the file are packed once only.
            if held and layer[0] % PLANES == 0:
                self._put(held)
                held = []
            held.append(layer)
        if held:
            self._put(held)

    def _put(self, layers: list[tuple[int, *tuple[NDArray[Any], ...]]]) -> None:
        for i, writer in enumerate(self._writers):
            counts, norm = (np.concatenate([layer[2 * i + k] for layer in layers]) for k in (1, 2))
            writer.write(layers[0][0], counts=counts, norm=norm)

    def note(self, notes: dict[str, Any]) -> None:
        """Record what was done."""
        for writer in self._writers:
            writer.note(notes)
