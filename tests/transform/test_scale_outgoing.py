"""Factor by the direction of the scattered beam in the frame of the crystal."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator
from scipy.spatial.transform import Rotation as Turn
from tests.transform.test_redundancy import SHAPE, TETRAGONAL, Floats, World

from hklflow.geometry import Rotation
from hklflow.transform import redundancy
from hklflow.transform.scale_cells import Lattice
from hklflow.transform.scale_outgoing import Outgoing, Sphere


def test_directions_lie_between_the_three_nearest_nodes() -> None:
    sphere = Sphere.of_step(8.0)
    u = np.random.default_rng(1).normal(size=(3000, 3))
    u /= np.linalg.norm(u, axis=1)[:, None]
    near = sphere.near(u)
    assert near.share.min() >= 0
    assert near.share.sum(axis=1) == pytest.approx(1)
    between = np.einsum("nk,nkx->nx", near.share, sphere.nodes[near.node])
    between /= np.linalg.norm(between, axis=1)[:, None]
    assert np.degrees(np.arccos(np.sum(between * u, axis=1).min())) < 0.2
    away = np.einsum("nx,nkx->nk", u, sphere.nodes[near.node])
    assert np.degrees(np.arccos(away.min())) < 10
    # A node is itself; three lines go through each, five through the corners.
    own = sphere.near(sphere.nodes)
    most = own.share.argmax(axis=1)
    assert own.share.max(axis=1) == pytest.approx(1)
    assert (np.take_along_axis(own.node, most[:, None], 1)[:, 0] == np.arange(642)).all()
    middles = [line[1] for line in sphere.second_differences()]
    assert np.bincount(np.bincount(middles)).tolist() == [0, 0, 0, 630, 0, 12]


@pytest.mark.slow
def test_derivatives_are_those_of_all_terms_of_each_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sums without zeros, and rows; compare with matrices of all terms."""
    world = World(*TETRAGONAL, 3, 2.0, n=5)
    rotations = [world.rotation(0), world.rotation(40)]
    ones = np.ones(world.n)
    records = world.records(rotations, [ones] * 2, [ones] * 2)
    outgoing = Outgoing.of_rotations(rotations, 16.0)
    splines = redundancy.Splines(
        (world.n,) * 2, (3, 3), (2, 2), (1, 1), SHAPE, outgoing=outgoing
    ).with_start([1 + 0.1 * np.sin(np.arange(world.n))] * 2)
    work = redundancy._Work(records, splines)
    a = 0.1 * np.random.default_rng(2).normal(size=splines.size)
    _, gradient = work.expect(a)
    lattice, positions = work.lattice, work.positions
    of_nodes = np.stack(
        [np.log(lattice.scale(row)) for row in np.eye(splines.size)], axis=1
    )  # all terms at each node
    part = positions.part[:, None]
    terms = (1 - part) * of_nodes[positions.node] + part * of_nodes[positions.node + 1]
    weight = np.repeat(work.weight, work.numbers)
    assert gradient == pytest.approx(terms.T @ (weight * work.off), abs=1e-4)
    nearest = of_nodes[positions.node + (positions.part >= 0.5)]
    squares = (nearest * (weight * work.info)[:, None]).T @ nearest
    begin = work.starts[:-1]
    mean = np.add.reduceat(work.info[:, None] * nearest, begin)
    mean /= np.sqrt(np.maximum(np.add.reduceat(work.info, begin), 1e-30) / work.weight)[:, None]
    fisher = squares - mean.T @ mean
    gradients = np.add.reduceat((weight * work.off)[:, None] * nearest, begin)
    for is_few in (True, False):
        monkeypatch.setattr(redundancy, "_few", lambda n, *_, few=is_few: np.full(len(n), few))
        found = work.second(np.arange(len(begin)), scatter=True)
        assert found.fisher == pytest.approx(fisher, abs=1e-4 * fisher.max())
        assert found.scatter == pytest.approx(gradients.T @ gradients, abs=1e-4 * fisher.max())
        assert found.squares == pytest.approx(np.sum(gradients**2, axis=0), rel=1e-3)


EVERY = 2  # pixels between traced rays


def through_plate(rotation: Rotation, turn: Floats) -> Floats:
    """Return the transmission (frames, slow, fast) of a plate, by rays through points of it.

    It is an ellipsoid four times as wide as it is thick.
    """
    rng = np.random.default_rng(7)
    points = rng.normal(size=(60, 3))
    points *= (rng.uniform(size=60) ** (1 / 3) / np.linalg.norm(points, axis=1))[:, None]
    slow, fast = (np.indices((30, 32)) + 0.5) * EVERY
    out = rotation.detector.lab(slow, fast).reshape(-1, 3)
    out /= np.linalg.norm(out, axis=-1, keepdims=True)

    def ways(directions: Floats) -> Floats:
        """Return the ways (n, points) to the surface, where the ellipsoid is the unit sphere."""
        d = directions @ turn.T / (0.25, 1, 1)
        a, b = np.sum(d**2, axis=1)[:, None], d @ points.T
        return np.asarray((np.sqrt(b**2 + a * (1 - np.sum(points**2, axis=1))) - b) / a)

    made = []
    for z in range(rotation.scan.n_frames):
        to_lab = rotation.goniometer.rotation(rotation.scan.angle(np.array([z + 0.5])))[0]
        way = ways(np.array([[0, 0, -1.0]]) @ to_lab) + ways(out @ to_lab)
        made.append(np.exp(-0.6 * way).mean(axis=1).reshape(30, 32))
    return np.array(made)


@pytest.mark.slow
def test_the_edge_of_a_plate_is_followed_as_it_turns() -> None:
    """Transmission of a plate, through which beams pass along its side; with and without g."""
    world = World(*TETRAGONAL, 3, 20.0, step=2.0, n=60)
    rotations = [world.rotation(0), world.rotation(40)]
    turn = Turn.random(rng=5).as_matrix()
    truth = [np.log(through_plate(r, turn)) for r in rotations]
    truth = [log - truth[0].mean() for log in truth]
    # One S for each orbit: voxels as large as these are not points.
    ones = [np.ones(world.n)] * 2
    records = world.records(rotations, ones, ones)
    traced = [(np.arange(n // EVERY) + 0.5) * EVERY for n in SHAPE]
    axes = np.arange(world.n) + 0.5, *traced
    at = np.stack([records.frame, records.slow, records.fast], axis=-1)

    def of_records(fields: list[Floats]) -> Floats:
        made = np.zeros(len(records))
        for number, field in enumerate(fields):
            own = records.rotation == number
            value = RegularGridInterpolator(axes, field, bounds_error=False, fill_value=None)
            made[own] = value(at[own])
        return made

    true = of_records(truth)
    mean = 100 * records.norm * np.exp(true)
    counts = np.random.default_rng(4).poisson(mean).astype(np.float32)
    records = replace(records, counts=counts)
    off, chi2 = [], []
    for outgoing in (None, Outgoing.of_rotations(rotations, 8.0)):
        splines = redundancy.Splines(
            (world.n,) * 2, (24, 24), (4, 4), (2, 2), SHAPE, outgoing=outgoing
        )
        found = redundancy.refine(records, splines, unknown=0.0, every=1)
        assert found.at_rest
        lattice = Lattice(splines)
        at_nodes, near = np.log(lattice.scale(found.parameters)), lattice.positions(records)
        error = (1 - near.part) * at_nodes[near.node] + near.part * at_nodes[near.node + 1] - true
        # A function of Q with the symmetry of S(Q) is not seen: deviations from the orbits' means.
        begin = np.flatnonzero(np.diff(records.voxel, prepend=-1))
        weighted = np.add.reduceat(error * mean, begin) / np.add.reduceat(mean, begin)
        error -= np.repeat(weighted, np.diff(np.append(begin, len(records))))
        off.append(np.sqrt(np.average(error**2, weights=mean)))
        # The curve, with the mean of g, and the direction are the same as the fit's.
        for number in range(2):
            own = lattice._table(number, at_nodes)
            frames = np.linspace(0, world.n, own.shape[2])[5:-5:50]
            cells = (
                (np.arange(n) + 0.5) * (size / n)
                for n, size in zip(own.shape[:2], SHAPE, strict=True)
            )
            d = splines.of_direction(number, found.parameters, frames, redundancy.Places(*cells))
            curve = splines.of_curve(number, frames) @ found.parameters
            made = np.moveaxis(curve[:, None, None] + d, 0, -1)
            assert made == pytest.approx(own[:, :, 5:-5:50], abs=1e-5)
        chi2.append(found.chi2_after)
    assert off[1] < 0.65 * off[0]
    assert chi2[1] - 1 < 0.5 * (chi2[0] - 1)
