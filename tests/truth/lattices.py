"""Peaks of known lattices in 7 crystal systems, and whether an indexed lattice is the true one.

Peaks are those of a rotation scan, thinned to a few hundred, with noise of the centroids
and 30 % spots at random. An answer counts when its lattice is the true one up to a unimodular
change of basis, to 0.1° and 0.5 % of each axis.
"""

import numpy as np
from scipy.spatial.transform import Rotation as Turn

from hklflow import geometry
from hklflow.geometry import lattice, prediction, symmetry

# Two cells of each system: an ordinary one, and one that is oblique or nearly more symmetric.
CASES = {
    "triclinic": [
        ("P-1", [5.2, 7.1, 9.8, 81.0, 97.0, 108.0]),
        ("P-1", [6.01, 6.05, 12.1, 89.4, 90.7, 119.5]),
    ],
    "monoclinic": [
        ("P21/c", [8.1, 5.9, 12.4, 90, 104.0, 90]),
        ("C2/m", [19.8, 4.1, 9.3, 90, 93.1, 90]),
    ],
    "orthorhombic": [
        ("Pnma", [5.42, 7.65, 5.38, 90, 90, 90]),
        ("Immm", [4.2, 8.3, 19.6, 90, 90, 90]),
    ],
    "tetragonal": [
        ("I4/mcm", [5.51, 5.51, 7.82, 90, 90, 90]),
        ("P43212", [48.0, 48.0, 63.0, 90, 90, 90]),
    ],
    "trigonal": [
        ("R-3m", [4.12, 4.12, 19.1, 90, 90, 120]),
        ("P-31m", [5.3, 5.3, 7.2, 90, 90, 120]),
    ],
    "hexagonal": [
        ("P63/mmc", [4.9, 4.9, 8.1, 90, 90, 120]),
        ("P6/m", [14.2, 14.2, 5.9, 90, 90, 120]),
    ],
    "cubic": [
        ("Fd-3m", [8.24, 8.24, 8.24, 90, 90, 90]),
        ("Pa-3", [12.1, 12.1, 12.1, 90, 90, 90]),
    ],
}


def simulate(
    symbol: str, cell: list[float], seed: int, spurious: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Peaks (n, 3) in the goniometer's frame and the true UB."""
    rng = np.random.default_rng(seed)
    group = symmetry.space_group(symbol)
    size, pixel = 1000, 172e-6
    large = max(cell[:3]) > 30
    wavelength, distance = (1.0, 0.12) if large else (0.5, 0.10)
    detector = geometry.Detector(
        (size, size),
        (pixel, pixel),
        np.array([size * pixel / 2, -size * pixel / 2, distance]),
        np.array([0.0, 1.0, 0.0]),
        np.array([-1.0, 0.0, 0.0]),
    )
    n_frames = 90 if large else 1200
    rotation = geometry.Rotation(
        geometry.Beam(wavelength),
        detector,
        geometry.Goniometer.single([1.0, 0.02, 0.01]),
        geometry.Scan(0.3, np.radians(0.2), n_frames),
    )
    ub = Turn.random(rng=rng).as_matrix() @ lattice.b_matrix(cell)
    hkl = lattice.indices_within(cell, min(geometry.q_max(rotation), 12.0), 0.05)
    seen = prediction.predict(rotation, ub, hkl[~group.is_absent(hkl)])
    good = np.nonzero(seen.zeta > 0.1)[0]
    keep = rng.choice(good, min(len(good), int(rng.integers(250, 700))), replace=False)
    n_random = int(len(keep) * spurious / (1 - spurious))
    frame = np.r_[
        seen.frame[keep] + rng.normal(0, 0.3, len(keep)), rng.uniform(0, n_frames, n_random)
    ]
    slow, fast = (
        np.r_[x[keep] + rng.normal(0, 0.4, len(keep)), rng.uniform(0, size, n_random)]
        for x in (seen.slow, seen.fast)
    )
    return rotation.q_crystal(frame, slow, fast), ub


def error(found: np.ndarray, true: np.ndarray, group: symmetry.SpaceGroup) -> tuple[float, float]:
    """Orientation in degrees and largest relative axis error of a UB, or infinities.

    Both lattices are taken primitive; the change of basis between them must be integer
    with determinant 1.
    """
    primitive = true @ np.linalg.inv(group.to_primitive)
    # found = primitive @ change: integers, to the error of the indices 0..2 in it.
    change = np.rint(np.linalg.inv(primitive) @ found)
    if np.linalg.det(change) < 0.5:
        return np.inf, np.inf
    relative = found @ np.linalg.inv(primitive @ change)
    u, s, vt = np.linalg.svd(relative)
    return float(np.degrees(lattice.rotation_angle(u @ vt, np.eye(3)))), float(np.abs(s - 1).max())


def primitive_of(ub: np.ndarray, group: symmetry.SpaceGroup) -> np.ndarray:
    return ub @ np.linalg.inv(group.to_primitive)


def is_right(
    found: np.ndarray, setting: symmetry.SpaceGroup, true: np.ndarray, symbol: str
) -> bool:
    """Whether a UB in a setting is the true lattice to 0.1° and 0.5 %."""
    group = symmetry.space_group(symbol)
    primitive = primitive_of(found, setting)
    ratio = np.linalg.det(primitive) / np.linalg.det(primitive_of(true, group))
    angle, size = error(primitive, true, group)
    return bool(abs(ratio - 1) < 0.02 and angle < 0.1 and size < 0.005)


def rough_cell(symbol: str, cell: list[float], seed: int) -> np.ndarray:
    """The cell with its free lengths off by up to 3 % and its free angles by up to 1°."""
    rng = np.random.default_rng(1000 + seed)
    constraints = symmetry.cell_constraints(symmetry.space_group(symbol))
    values = constraints.select(cell)
    for i, name in enumerate(constraints.free):
        lengths = name in "abc"
        values[i] = (
            values[i] * rng.uniform(0.97, 1.03) if lengths else values[i] + rng.uniform(-1, 1)
        )
    return constraints.expand(values)
