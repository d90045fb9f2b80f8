"""What a simulated peak table can tell at most: Fisher information from the simulator's geometry.

Where and when each reflection is seen is differentiated numerically by cell, orientation, the
detector's place and turn, and by the size of what moved. Nothing of the code under test is used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tests.truth.worlds import BRAGG, World
from tests.truth.worlds_draft import allowed_change
from tests.truth.worlds_physics import Array, Motion, Sample, rotation

Change = Callable[[Sample, float], Sample]

_ALIKE = 1e-12  # of a normal matrix of unit diagonal: below it nothing is known


@dataclass(frozen=True)
class Bound:
    """Least standard deviations.

    Attributes
    ----------
    n : int
        Reflections in the table.
    cell : float
        Of the free parameters of the cell, relative (of angles: radians), the largest; infinite
        where the table cannot tell them apart.
    turn : float
        Of the orientation about the axis that is known least, degrees.
    significance : float
        Size of the motion over its standard deviation, with cell, orientation and detector free;
        0 without a motion.
    """

    n: int
    cell: float
    turn: float
    significance: float


def bound(
    world: World, floor: tuple[float, float] = (0.0, 0.0), beside: Sequence[Motion] = ()
) -> Bound:
    """Return the least standard deviations by a world's reflections.

    Parameters
    ----------
    floor
        Standard uncertainty in pixels and in frames by which the stated errors are raised.
    beside
        Small motions that are free as well, as of `every`: what cannot be told from them has no
        significance.
    """
    peaks = world.peaks
    rows = {n: v[(peaks["origin"] == BRAGG) & (peaks["merged"] == 1)] for n, v in peaks.items()}
    n = len(rows["frame"])
    changes = [*_cells(world.system), *_turns(), *_detector()]
    n_cell = len(changes) - 8
    moving = any_motion(world.sample.motion)
    if moving:
        changes.append((lambda s, x: replace(s, motion=scaled(s.motion, 1 + x)), 1e-4))
    changes[-1:-1] = [(_added(motion), 1.0) for motion in beside] if moving else []
    if 3 * n < len(changes):
        return Bound(n, np.inf, np.inf, 0.0)
    pixels, frames = floor
    sigma = np.sqrt(
        np.stack([rows["var_slow"], rows["var_fast"], rows["var_frame"]], 1)
        + np.array([pixels, pixels, frames]) ** 2
    )
    J = np.stack([_slope(world, rows, change, step) / sigma for change, step in changes])
    J = np.nan_to_num(J.reshape(len(changes), -1))
    still = inverse(J[: n_cell + 8] @ J[: n_cell + 8].T)
    sigma_cell = np.sqrt(np.diag(still))[:n_cell]
    turns = still[n_cell : n_cell + 3, n_cell : n_cell + 3]
    least = np.sqrt(np.linalg.eigvalsh(turns)[-1]) if np.isfinite(still).all() else np.inf
    told = 1 / np.sqrt(inverse(J @ J.T)[-1, -1]) if moving else 0.0
    return Bound(n, float(sigma_cell.max()), float(least), float(told))


def inverse(normal: Array) -> Array:
    """Return the inverse of a normal matrix; infinite where it is singular."""
    scale = np.sqrt(np.maximum(np.diag(normal), np.finfo(float).tiny))
    values, vectors = np.linalg.eigh(normal / np.outer(scale, scale))
    if values[0] < _ALIKE * values[-1]:
        return np.full(normal.shape, np.inf)
    return (vectors / values) @ vectors.T / np.outer(scale, scale)


def every(kind: str, world: World, periods: int = 1, frame: float = 0.0) -> list[Motion]:
    """Return small motions of a kind in all its directions, in the only scan of a world."""
    scan, axes = world.sample.scans[0], np.eye(3)
    across = np.linalg.svd((scan.setting.T @ scan.axis)[None])[2][1:]
    cells = np.unique([allowed_change(world.system, unit) for unit in np.eye(6)], axis=0)
    return {
        "slip": [Motion(slips=[(0, frame, 1e-3 * axis)]) for axis in axes],
        "drift": [Motion(drifts=[1e-3 * axis]) for axis in axes],
        "wobble": [
            Motion(wobbles=[(axis, 1e-3, periods, phase)]) for axis in axes for phase in (0, 90)
        ],
        "off centre": [Motion(offset=1e-6 * axis) for axis in across],
        "beam position": [Motion(beam_shift=1e-6 * axis) for axis in axes[:2]],
        "beam direction": [Motion(beam_turn=1e-3 * axis) for axis in axes[:2]],
        "cell": [
            Motion(strain=1e-6 * change) for change in np.unique(cells, axis=0) if any(change)
        ],
    }[kind]


def _added(more: Motion) -> Change:
    """Return a change that adds a motion."""

    def change(sample: Sample, x: float) -> Sample:
        own, new = sample.motion, scaled(more, x)
        both = Motion(
            [*own.slips, *new.slips],
            [*own.drifts, *new.drifts],
            [*own.wobbles, *new.wobbles],
            own.offset + new.offset,
            own.beam_turn + new.beam_turn,
            own.beam_shift + new.beam_shift,
            own.strain + new.strain,
        )
        return replace(sample, motion=both)

    return change


def any_motion(motion: Motion) -> bool:
    """Return True if anything moves."""
    lists = motion.slips or motion.drifts or motion.wobbles
    vectors = np.r_[motion.offset, motion.beam_turn, motion.beam_shift, motion.strain]
    return bool(lists) or bool(vectors.any())


def scaled(motion: Motion, factor: float) -> Motion:
    """Return a motion of another size."""
    return Motion(
        [(r, frame, vector * factor) for r, frame, vector in motion.slips],
        [vector * factor for vector in motion.drifts],
        [(axis, size * factor, *rest) for axis, size, *rest in motion.wobbles],
        motion.offset * factor,
        motion.beam_turn * factor,
        motion.beam_shift * factor,
        motion.strain * factor,
    )


def places(sample: Sample, r: int, hkl: Array, near: Array) -> Array:
    """Return slow, fast and frame (n, 3) of reflections that are seen near frames (n,)."""
    frame, step = near.copy(), 1e-3
    for _ in range(6):
        up, down = (sample.misfit(r, frame + s, hkl, np.eye(3)) for s in (step, -step))
        slope = (up - down) / (2 * step)
        with np.errstate(divide="ignore", invalid="ignore"):
            move = sample.misfit(r, frame, hkl, np.eye(3)) / slope
        frame = frame - np.clip(np.nan_to_num(move), -1, 1)
    turn, UB, k, start = sample.state(r, frame)
    Q = np.einsum("nij,nj->ni", turn @ UB, hkl)
    slow, fast, _ = sample.instrument.pixel(start, (k + Q) / sample.instrument.k)
    return np.stack([slow, fast, frame], 1)


def _slope(world: World, rows: dict[str, Array], change: Change, step: float) -> Array:
    """Return derivatives (n, 3) of where reflections are seen."""
    out = np.full((len(rows["frame"]), 3), np.nan)
    for r in range(len(world.sample.scans)):
        own = rows["rotation"] == r
        hkl, near = rows["hkl"][own], rows["true_frame"][own]
        up, down = (places(change(world.sample, s), r, hkl, near) for s in (step, -step))
        out[own] = (up - down) / (2 * step)
    return out


def _cells(system: str) -> list[tuple[Change, float]]:
    """Return relative changes of the free parameters of a cell."""
    found: list[tuple[Change, float]] = []
    taken = np.zeros(6)
    for unit in np.eye(6):
        change = allowed_change(system, unit)
        if not change.any() or taken @ change:
            continue
        taken += change

        def changed(sample: Sample, x: float, change: Array = change) -> Sample:
            lengths = sample.cell * np.r_[change[:3], 0, 0, 0]
            angles = np.degrees(1) * np.r_[0, 0, 0, change[3:]]
            return replace(sample, cell=sample.cell + x * (lengths + angles))

        found.append((changed, 1e-5))
    return found


def _turns() -> list[tuple[Change, float]]:
    """Return turns of the crystal, in degrees."""

    def turned(axis: Array) -> Change:
        return lambda sample, x: replace(sample, U=rotation(axis, x) @ sample.U)

    return [(turned(axis), 1e-3) for axis in np.eye(3)]


def _detector() -> list[tuple[Change, float]]:
    """Return shifts of the detector across the beam (m) and turns about its centre (degrees)."""

    def shifted(axis: Array) -> Change:
        def change(sample: Sample, x: float) -> Sample:
            inst = sample.instrument
            return replace(sample, instrument=replace(inst, origin=inst.origin + x * axis))

        return change

    def turned(axis: Array) -> Change:
        def change(sample: Sample, x: float) -> Sample:
            inst, R = sample.instrument, rotation(axis, x)
            centre = inst.point(np.array(inst.shape[0] / 2), np.array(inst.shape[1] / 2))
            moved = replace(
                inst,
                origin=centre + R @ (inst.origin - centre),
                slow=R @ inst.slow,
                fast=R @ inst.fast,
            )
            return replace(sample, instrument=moved)

        return change

    shifts: list[tuple[Change, float]] = [(shifted(axis), 1e-6) for axis in np.eye(3)[:2]]
    return shifts + [(turned(axis), 1e-3) for axis in np.eye(3)]
