"""CCP4/MRC map: one volume in single precision.

The map is a box. Its cell has the lengths of the box, n × step × a* (or a) along each axis, and the
angles of the reciprocal (or direct) cell; n grid intervals span the box, and the start (words 5 to
7) is the first voxel in steps from 000. A reader that puts a grid point at orthogonalise(start / n)
therefore puts it at B h, in 1/Å with 2π, or at r in Å. A grid whose first voxel is not a whole
number of steps from 000 has start 0, and the Cartesian position of the first voxel as the origin of
MRC 2014 (words 50 to 52).

Format: Cheng et al., J. Struct. Biol. 192, 146 (2015), https://www.ccpem.ac.uk/mrc_format.
"""

import math
from pathlib import Path

import numpy as np

from hklflow.export.source import Source

_LABEL = 80
_LABELS = 10


def write(source: Source, path: Path) -> list[str]:
    """Write a volume as a map; return notes about what the map cannot hold."""
    statistics = _Statistics()
    with path.open("wb") as file:
        file.write(bytes(1024))
        for slab in source.slabs():
            values = slab.data.astype("<f4")
            statistics.add(values)
            file.write(values.tobytes())
        file.seek(0)
        file.write(_header(source, statistics))
    notes = [f"voxels without a value are {source.unmeasured:g}"]
    if source.has_errors:
        notes.append("a map holds no errors; write them with --errors to a second map")
    if not source.direct:
        notes.append("a map holds no UB: lengths of its cell are in 1/Å (with 2π)")
    return notes


class _Statistics:
    """Smallest and largest value, mean and rms deviation of finite values."""

    def __init__(self) -> None:
        self.low, self.high, self.n, self.sum, self.squares = math.inf, -math.inf, 0, 0.0, 0.0

    def add(self, values: "np.ndarray") -> None:
        finite = values[np.isfinite(values)].astype(np.float64)
        if finite.size:
            self.low, self.high = min(self.low, finite.min()), max(self.high, finite.max())
            self.n += finite.size
            self.sum += float(finite.sum())
            self.squares += float(finite @ finite)

    @property
    def mean(self) -> float:
        return self.sum / self.n if self.n else 0.0

    @property
    def rms(self) -> float:
        return math.sqrt(max(0.0, self.squares / self.n - self.mean**2)) if self.n else 0.0


def _header(source: Source, statistics: _Statistics) -> bytes:
    grid = source.grid
    words = np.zeros(256, "<i4")
    reals = words.view("<f4")
    shape = np.array(grid.shape)
    words[:4] = (*shape, 2)  # mode 2: single precision
    start = np.rint(grid.first / grid.step)
    if np.abs(start * grid.step - grid.first).max() < 1e-6 * grid.step.min():
        words[4:7] = start
    else:
        reals[49:52] = source.basis @ grid.first
    words[7:10] = shape
    lengths, angles = np.split(source.lengths_and_angles, 2)
    reals[10:13] = lengths * shape * grid.step
    reals[13:16] = angles
    words[16:19] = (1, 2, 3)  # columns are h, rows k, sections l
    low, high = (statistics.low, statistics.high) if statistics.n else (0.0, 0.0)
    reals[19:22] = (low, high, statistics.mean)
    words[22] = 1  # space group P 1, a volume
    words[27] = 20140
    raw = bytearray(words.tobytes())
    raw[208:216] = b"MAP \x44\x44\0\0"
    raw[216:220] = np.array(statistics.rms, "<f4").tobytes()
    labels = _labels(source)
    raw[220:224] = np.array(len(labels), "<i4").tobytes()
    for i, label in enumerate(labels):
        raw[224 + _LABEL * i : 224 + _LABEL * (i + 1)] = label.ljust(_LABEL).encode()
    return bytes(raw)


def _labels(source: Source) -> list[str]:
    """Return at most ten lines of ASCII about the values."""
    facts = source.facts
    cell = " ".join(f"{x:.5g}" for x in source.cell)
    unit = "Angstrom" if source.direct else "1/Angstrom, |a*| with 2 pi"
    lines = [
        f"{facts['program']} from {facts['source']}",
        facts["title"],
        facts["quantity"],
        facts["estimand"],
        f"axes: {facts['axes']}; lengths of the map's cell in {unit}",
        f"crystal cell {cell}",
        f"Laue group {facts['Laue group'] or 'not stated'}, "
        f"{'' if facts['symmetrised'] else 'not '}symmetrised",
        f"unmeasured voxels: {source.unmeasured:g}",
    ]
    if "diagnostic" in facts:
        lines.append(f"diagnostic: {facts['diagnostic']}")
    plain = str.maketrans({"Å": "A", "σ": "sigma", "Δ": "delta-", "π": "pi", "³": "^3"})
    ascii_lines = [line.translate(plain).encode("ascii", "replace").decode() for line in lines]
    return [line[:_LABEL] for line in ascii_lines[:_LABELS]]
