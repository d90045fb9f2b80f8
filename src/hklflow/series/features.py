"""Where the voxels of a cluster are: points, rods and sheets, and their place in the zone."""

import itertools
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as connected

from hklflow.geometry.grid import Grid

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_LONG = 3.0  # ratio of lengths above which a feature is a rod or a sheet
_LARGEST = 8  # largest denominator of a coordinate that is written as a fraction
_EACH = 2000  # largest number of features of a cluster whose place is described

# Points of the zone in coordinates of the conventional cell, by crystal system and centring; one
# of each star is given. The names are those of Bradley and Cracknell.
_CUBIC = {"X": "0 1/2 0", "M": "1/2 1/2 0", "R": "1/2 1/2 1/2"}
_TETRAGONAL = {
    **{"X": "0 1/2 0", "M": "1/2 1/2 0", "Z": "0 0 1/2"},
    **{"R": "0 1/2 1/2", "A": "1/2 1/2 1/2"},
}
_ORTHORHOMBIC = {
    **{"X": "1/2 0 0", "Y": "0 1/2 0", "Z": "0 0 1/2", "S": "1/2 1/2 0"},
    **{"U": "1/2 0 1/2", "T": "0 1/2 1/2", "R": "1/2 1/2 1/2"},
}
_HEXAGONAL = {
    **{"M": "1/2 0 0", "K": "1/3 1/3 0", "A": "0 0 1/2"},
    **{"L": "1/2 0 1/2", "H": "1/3 1/3 1/2"},
}
_NAMES = {
    ("cubic", "P"): _CUBIC,
    ("cubic", "F"): {"X": "1 0 0", "L": "1/2 1/2 1/2", "W": "1 1/2 0", "K": "3/4 3/4 0"},
    ("cubic", "I"): {"H": "1 0 0", "N": "1/2 1/2 0", "P": "1/2 1/2 1/2"},
    ("tetragonal", "P"): _TETRAGONAL,
    ("orthorhombic", "P"): _ORTHORHOMBIC,
    ("hexagonal", "P"): _HEXAGONAL,
    ("trigonal", "P"): _HEXAGONAL,
}


@dataclass(frozen=True)
class Lattice:
    """Reciprocal lattice and its symmetry.

    Attributes
    ----------
    metric : (3, 3) array
        Metric tensor of reciprocal space, 1/Å².
    operations : (n, 3, 3) array
        Operations of the Laue group on hkl.
    system : str
        Crystal system.
    centring : str
    """

    metric: Floats
    operations: Floats
    system: str
    centring: str

    def allowed(self, hkl: Floats) -> NDArray[np.bool_]:
        """Return True for integer hkl (..., 3) that the centring allows."""
        h, k, l = np.moveaxis(hkl, -1, 0)  # noqa: E741
        even = {
            "A": [k + l],
            "B": [h + l],
            "C": [h + k],
            "I": [h + k + l],
            "F": [h + k, h + l, k + l],
        }.get(self.centring, [])
        found = np.ones(h.shape, np.bool_)
        for total in even:
            found &= np.rint(total) % 2 == 0
        if self.centring in "RH" and self.centring:
            found &= np.rint(-h + k + l) % 3 == 0
        return found

    def folded(self, points: Floats) -> Floats:
        """Return points (n, 3) relative to the nearest reflection that the centring allows."""
        near = np.rint(points)
        offsets = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=3)))
        nodes = near[:, None] + offsets
        off = points[:, None] - nodes
        length = np.einsum("nmi,ij,nmj->nm", off, self.metric, off)
        length[~self.allowed(nodes)] = np.inf
        return np.asarray(off[np.arange(len(points)), np.argmin(length, axis=1)])

    def simplest(self, q: Floats) -> Floats:
        """Return the image of a folded point with the largest positive coordinates."""
        images = self.folded(np.concatenate([self.operations @ q, self.operations @ -q]))
        images = np.round(np.concatenate([images, -images]), 6) + 0.0
        return np.asarray(max(images.tolist(), key=lambda x: (sum(v >= 0 for v in x), x)))

    def name(self, q: Floats) -> str:
        """Return the name of a point of the zone; empty if it has none."""
        if not np.any(np.abs(q) > 1e-6):
            return "Γ"
        for name, text in _NAMES.get((self.system, self.centring), {}).items():
            point = np.array([float(Fraction(x)) for x in text.split()])
            off = self.folded(np.concatenate([self.operations @ point]) - q)
            if np.any(np.all(np.abs(off) < 1e-6, axis=1)):
                return name
        return ""


def dense(index: Integers, labels: Integers, grid: Grid, operations: Floats) -> NDArray[np.uint8]:
    """Return the labels (l, k, h) of all voxels: each voxel and its images."""
    shape = grid.array_shape
    found = np.zeros(shape, np.uint8)
    h, k, l = (np.unravel_index(index, shape)[i] for i in (2, 1, 0))  # noqa: E741
    hkl = grid.first + grid.step * np.stack([h, k, l], axis=1)
    for operation in operations:
        place = np.rint((hkl @ operation.T - grid.first) / grid.step).astype(np.int64)
        inside = np.all((place >= 0) & (place < grid.shape), axis=1)
        found[tuple(place[inside, ::-1].T)] = labels[inside]
    return found


@dataclass(frozen=True)
class Kind:
    """Features of a cluster that are alike.

    Attributes
    ----------
    shape : str
        ``point``, ``rod`` or ``sheet``.
    place : str
        Place relative to the nearest reflection, such as (1/2, 1/2, 0), or (1/4, 1/4, l) of a rod.
    name : str
        Name of the point of the zone; empty if it has none.
    direction : str
        Direction of a rod, normal of a sheet, in reciprocal coordinates; empty for points.
    features, voxels : int
        Numbers in the whole volume.
    """

    shape: str
    place: str
    name: str
    direction: str
    features: int
    voxels: int


def kinds(volume: NDArray[np.uint8], number: int, grid: Grid, lattice: Lattice) -> list[Kind]:
    """Return the kinds of features of cluster ``number``, the largest first."""
    parts, n = connected(volume == number, np.ones((3, 3, 3)))
    place = np.nonzero(parts)
    part = parts[place] - 1
    hkl = np.stack([grid.first[i] + grid.step[i] * place[2 - i] for i in range(3)], axis=1)
    counts = np.bincount(part, minlength=n)
    centre = np.stack([np.bincount(part, x, n) / counts for x in hkl.T], axis=1)
    off = hkl - centre[part]
    spread = np.empty((n, 3, 3))
    for i, j in itertools.combinations_with_replacement(range(3), 2):
        spread[:, i, j] = spread[:, j, i] = np.bincount(part, off[:, i] * off[:, j], n) / counts
    spread += np.diag(grid.step**2) / 12
    # Axes of features in 1/Å: hkl in an orthonormal frame.
    frame = np.linalg.cholesky(lattice.metric).T
    squares, axes = np.linalg.eigh(frame @ spread @ frame.T)
    lengths = np.sqrt(12 * squares[:, ::-1])  # the longest first
    found: dict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for i in np.argsort(-counts)[:_EACH]:
        shape, axis = "point", None
        if lengths[i, 1] >= _LONG * lengths[i, 2]:
            shape, axis = "sheet", axes[i, :, 0]
        elif lengths[i, 0] >= _LONG * lengths[i, 1]:
            shape, axis = "rod", axes[i, :, 2]
        direction = None if axis is None else _plain(np.linalg.solve(frame, axis))
        where, name, along = _described(centre[i], shape, direction, grid.step, lattice)
        row = found[shape, where, name, along]
        row[0] += 1
        row[1] += int(counts[i])
    rows = [Kind(*key, *numbers) for key, numbers in found.items()]
    return sorted(rows, key=lambda kind: -kind.voxels)


def _plain(direction: Floats) -> Integers | None:
    """Return the small integers along a direction; None if there are none."""
    scaled = direction / np.max(np.abs(direction))
    for factor in (1, 2, 3, 4):
        whole = np.rint(factor * scaled)
        if np.max(np.abs(factor * scaled - whole)) < 0.1 * factor:
            return np.asarray(whole * np.sign(whole[np.flatnonzero(whole)[0]]), dtype=np.int64)
    return None


def _described(
    centre: Floats, shape: str, direction: Integers | None, step: Floats, lattice: Lattice
) -> tuple[str, str, str]:
    """Return place, name and direction of a feature as text."""
    along = "" if direction is None else " ".join(map(str, direction))
    if shape == "point":
        q = lattice.simplest(_snapped(lattice.folded(centre[None])[0], step))
        return f"({', '.join(map(_text, q))})", lattice.name(q), ""
    axis = None if direction is None else np.flatnonzero(direction)
    if axis is None or len(axis) != 1:
        return "", "", along
    # Only the coordinates that are the same in the whole feature.
    same = axis if shape == "sheet" else [i for i in range(3) if i != axis[0]]
    q = _snapped(np.abs(centre - np.rint(centre)), step)
    letters = [_text(q[i]) if i in same else "hkl"[i] for i in range(3)]
    return f"({', '.join(letters)})", "", along


def _snapped(q: Floats, step: Floats) -> Floats:
    """Return coordinates with fractions in place of values that are within half a voxel."""
    found = np.round(q, 3)
    for i, x in enumerate(q):
        for largest in range(1, _LARGEST + 1):
            plain = float(Fraction(float(x)).limit_denominator(largest))
            if abs(plain - x) <= min(0.5 * step[i], 0.5 / largest**2):
                found[i] = plain
                break
    return found + 0.0


def _text(x: float) -> str:
    plain = Fraction(float(x)).limit_denominator(_LARGEST)
    return str(plain) if abs(float(plain) - x) < 1e-6 else f"{x:.3g}"
