"""Gaussian cube file, a text that VESTA, VMD and ASE read.

The grid has an origin and three vectors of a voxel, so that skewed cells keep their shape. Lengths
are written in Bohr, as the format asks: programs show Q in 1/Å (with 2π) as if it were Å, or r in
Å. Values run along z first, six in a line. One hydrogen atom marks 000, because VMD and others need
an atom.

Format: https://paulbourke.net/dataformats/cube
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.export.source import Source

_BOHR = 0.529177210903  # Å, CODATA 2018
_COLUMNS = 32  # planes of h in memory
_PER_LINE = 6


def write(source: Source, path: Path) -> list[str]:
    """Write a volume as text with six digits; return notes about what it cannot hold."""
    grid, facts = source.grid, source.facts
    origin = source.basis @ grid.first / _BOHR
    vectors = (source.basis * grid.step / _BOHR).T
    cell = " ".join(f"{x:.6g}" for x in source.cell)
    state = f"unmeasured voxels: {source.unmeasured:g}; crystal cell {cell}; {facts['axes']}"
    if "diagnostic" in facts:
        state += f"; diagnostic: {facts['diagnostic']}"
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{facts['program']} from {facts['source']}: {facts['quantity']}\n{state}\n")
        file.write(f"{1:5d} {_words(origin)}\n")
        for n, vector in zip(grid.shape, vectors, strict=True):
            file.write(f"{n:5d} {_words(vector)}\n")
        file.write(f"{1:5d} {_words(np.zeros(4))}\n")
        for plane in _planes(source):
            file.write(_text(plane))
    notes = [f"voxels without a value are {source.unmeasured:g}", "values have six digits"]
    if source.has_errors:
        notes.append("a cube file holds no errors; write them with --errors to a second file")
    return notes


def _words(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:15.9f}" for value in values)


def _planes(source: Source) -> Iterator[NDArray[np.float32]]:
    """Yield the planes (k, l) of each h."""
    for first in range(0, source.grid.shape[0], _COLUMNS):
        block = source.columns(first, min(first + _COLUMNS, source.grid.shape[0]))
        for h in range(block.shape[2]):
            yield block[:, :, h].T


def _text(plane: NDArray[np.float32]) -> str:
    rows = []
    for row in plane.tolist():
        words = [f"{value:13.5E}" for value in row]
        lines = range(0, len(words), _PER_LINE)
        rows.append("\n".join("".join(words[i : i + _PER_LINE]) for i in lines))
    return "\n".join(rows) + "\n"
