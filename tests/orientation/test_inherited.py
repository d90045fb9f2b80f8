"""Errors of children of a parent with a short rotation and a detector on an arm.

The peaks come from the Laue condition solved by hand: ``q(φ)·q(φ) + 2 k q_z(φ) = 0``.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation as Turn
from tests.truth.defaults import refine

from hklflow import geometry
from hklflow.geometry import lattice, symmetry
from hklflow.orientation.inherited import Inheritance, InheritedErrors, inherited_errors
from hklflow.orientation.refinement import Peaks, Refined

CELL = [6.1, 6.1, 9.7, 90, 90, 90]
GROUP = symmetry.space_group("P 4/m m m")
PIXEL, SIZE, K = 100e-6, 1000, 2 * np.pi / 0.7
STEP, FRAMES = np.radians(0.5), 60
SIGMA = np.array([0.15, 0.15, 0.1])
DETECTOR = ("detector_x", "detector_y", "detector_rotation")
SEEDS = 40


def rotations(arm: float = 35.5) -> list[geometry.Rotation]:
    """Two short rotations about x at two angles of an axis y below."""
    turn = Turn.from_rotvec([0, np.radians(arm), 0])
    plate = geometry.Detector(
        (SIZE, SIZE),
        (PIXEL, PIXEL),
        turn.apply([-SIZE * PIXEL / 2, -SIZE * PIXEL / 2, 0.08]),
        turn.apply([0.0, 1.0, 0.0]),
        turn.apply([1.0, 0.0, 0.0]),
    )
    return [
        geometry.Rotation(
            geometry.Beam(0.7),
            plate,
            geometry.Goniometer(("chi", "phi"), np.eye(3)[[1, 0]], np.array([chi, 0.0]), 1),
            geometry.Scan(0.0, STEP, FRAMES),
        )
        for chi in (0.0, 0.6)
    ]


def observe(setup: geometry.Rotation, ub: np.ndarray, rng: np.random.Generator) -> Peaks:
    """At most 120 peaks of one rotation, with noise."""
    fixed = Turn.from_rotvec([0, setup.goniometer.angles[0], 0]).as_matrix()
    axis = fixed @ [1.0, 0.0, 0.0]
    hkl = lattice.indices_within(CELL, 7.0, 0.3)
    g = hkl @ (fixed @ ub).T
    along = np.outer(g @ axis, axis)
    cosine, sine = g - along, np.cross(axis, g)
    size = np.hypot(cosine[:, 2], sine[:, 2])
    height = (-(g**2).sum(1) / (2 * K) - along[:, 2]) / size
    with np.errstate(invalid="ignore"):
        opening = np.arccos(height)
    found = []
    plate = setup.detector
    for sign in (1, -1):
        phi = (np.arctan2(sine[:, 2], cosine[:, 2]) + sign * opening) % (2 * np.pi)
        q = along + cosine * np.cos(phi)[:, None] + sine * np.sin(phi)[:, None]
        ray = q + np.array([0, 0, K])
        normal = np.cross(plate.slow, plate.fast)
        reach = (plate.origin @ normal) / (ray @ normal)
        spot = ray * reach[:, None] - plate.origin
        at = np.stack([spot @ plate.slow / PIXEL, spot @ plate.fast / PIXEL, phi / STEP], axis=1)
        seen = (at > 0) & (at < [SIZE, SIZE, FRAMES])
        found.append(at[seen.all(axis=1) & (reach > 0)])
    at = rng.permutation(np.vstack(found))[:120]
    slow, fast, frame = (at + rng.normal(size=at.shape) * SIGMA).T
    variances = [np.full(len(at), s**2) for s in SIGMA[[2, 0, 1]]]
    return Peaks(frame, slow, fast, *variances)


def parent_of(
    setup: list[geometry.Rotation], u: np.ndarray, rng: np.random.Generator
) -> tuple[Refined, list[Peaks], Inheritance]:
    ub = u @ lattice.b_matrix(CELL)
    peaks = [observe(one, ub, rng) for one in setup]
    free = ["cell", "orientation", *DETECTOR, "misorientation"]
    refined = refine(setup, peaks, ub, GROUP, free=free)
    n = len(setup)
    inheritance = Inheritance(
        refined.names, refined.covariance, refined.rotations[0], (True,) * n, tuple(range(n))
    )
    return refined, peaks, inheritance


def child_of(
    parent: Refined, peaks: list[Peaks], u: np.ndarray, inheritance: Inheritance, *free: str
) -> tuple[Refined, InheritedErrors]:
    free = ("cell", "orientation", *free)
    ub = u @ lattice.b_matrix(CELL)
    refined = refine(parent.rotations[: len(peaks)], peaks, ub, GROUP, free=free)
    return refined, inherited_errors(refined, peaks, GROUP, inheritance)


@pytest.mark.slow
def test_errors_of_a_child_are_as_large_as_its_deviations() -> None:
    setup, own, total = rotations(), [], []
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        parent, _, inheritance = parent_of(setup, Turn.random(rng=rng).as_matrix(), rng)
        u = Turn.random(rng=rng).as_matrix()
        peaks = [observe(one, u @ lattice.b_matrix(CELL), rng) for one in setup]
        heads = ("misorientation",) * (seed % 2)  # refined in every second child
        found, extra = child_of(parent, peaks, u, inheritance, *heads)
        off = np.r_[
            (found.cell - CELL)[[0, 2]], np.degrees(Turn.from_matrix(found.u @ u.T).as_rotvec())
        ]
        variance = np.r_[found.cell_sigma[[0, 2]], np.degrees(found.orientation_sigma)] ** 2
        added = np.r_[np.diag(extra.cell)[[0, 2]], np.diag(extra.orientation)]
        own.append(off / np.sqrt(variance))
        total.append(off / np.sqrt(variance + added))
    width = np.sqrt(np.mean(np.square(total), axis=0))
    assert np.all(np.abs(width - 1) < 0.3)  # the width of 40 pulls is known to 11 %
    assert np.sqrt(np.mean(np.square(own), axis=0)).max() > 2


def test_the_scan_of_the_parent_has_the_errors_of_the_parent() -> None:
    rng = np.random.default_rng(1)
    u = Turn.random(rng=rng).as_matrix()
    parent, peaks, inheritance = parent_of(rotations(), u, rng)
    found, extra = child_of(parent, peaks, u, inheritance, "misorientation")
    joint = np.degrees(parent.orientation_sigma)
    total = np.sqrt(np.degrees(found.orientation_sigma) ** 2 + np.diag(extra.orientation))
    np.testing.assert_allclose(total, joint, rtol=0.01)
    cell = np.sqrt(np.diag(found.cell_covariance + extra.cell))
    np.testing.assert_allclose(cell, parent.cell_sigma, rtol=0.01)
    assert np.degrees(found.orientation_sigma).min() < 0.5 * joint.max()


def test_a_rotation_with_its_own_detector_and_head_inherits_no_error() -> None:
    rng = np.random.default_rng(2)
    u = Turn.random(rng=rng).as_matrix()
    parent, peaks, inheritance = parent_of(rotations(), u, rng)
    alone = replace(inheritance, detectors=(False, False), heads=(None, None))
    _, extra = child_of(parent, peaks, u, alone)
    assert not extra.cell.any()
    assert not extra.orientation.any()
