"""Bragg intensities of the worlds of a quantitative S(Q), as a scan measures them."""

from functools import cache
from typing import Any

import numpy as np

from hklflow.bragg.structure_factors import Scaled
from tests.truth.quantitative import World
from tests.truth.quantitative_catalogue import world

COUNTS = 4e4  # counts of a reflection that is stronger than nine of ten


@cache
def of(name: str, seed: int) -> World:
    """Return a world with large pixels, which is made in a second."""
    return world(name, seed, shape=(60, 64))


def bragg_scan(
    w: World, seed: int, *, transmission: Any = None, extinction: float = 0.0, scale: float = 1.0
) -> Scaled:
    """Return intensities at random frames of the rotations, with the scales of a scaling.

    Parameters
    ----------
    transmission : function of rotation and frame
        What the norm of the scan lacks; default: nothing.
    extinction : float
        x of I/√(1 + x I λ³/sin 2θ).
    scale : float
        Factor of all intensities.
    """
    rng = np.random.default_rng(seed)
    hkl, power = w.crystal.structure_factors(min(float(w.q.max()), 7.0))
    rows = rng.integers(len(hkl), size=min(4000, 4 * len(hkl)))
    hkl, power = hkl[rows], power[rows]
    r = rng.integers(len(w.scans), size=len(hkl))
    z = np.array([rng.integers(w.scans[i].n_frames) for i in r])
    d = 2 * np.pi / np.linalg.norm(hkl @ w.crystal.B.T, axis=1)
    true = power * (2 * np.pi) ** 3 / w.crystal.volume
    sin2 = np.sin(2 * np.arcsin(w.crystal.wavelength / 2 / d))
    true /= np.sqrt(1 + extinction * true * w.crystal.wavelength**3 / sin2)
    if transmission is not None:
        true = true * np.array([transmission(i, j) for i, j in zip(r, z, strict=True)])
    # Counts with a background, and the error that is expected of them.
    per = COUNTS / np.percentile(true, 90)
    intensity = scale * w.scale * (rng.poisson(true * per + 30) - 30) / per
    sigma = scale * w.scale * np.sqrt(true * per + 30) / per
    angle = np.array([w.scans[i].start + j * w.scans[i].step for i, j in zip(r, z, strict=True)])
    same = rng.uniform(0.5, 2, len(hkl))  # scaling is undone
    return Scaled(
        hkl, r, z + 0.5, angle, d, intensity / same, sigma / same, sigma / same, same,
        np.zeros(len(hkl), np.int64),
    )  # fmt: skip
