"""Short wedges of mosaic crystals, photon by photon: many rocking curves are cut by their ends."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr
from tests.truth.defaults import refine, searched
from tests.truth.frames import frame_world
from tests.truth.frames_world import MASKED
from tests.truth.world_scans import compared_with, scan_of
from tests.truth.worlds_physics import busing_levy

from hklflow.geometry import symmetry
from hklflow.peaks.table import PeakTable
from hklflow.stage import orientation

Floats = NDArray[np.float64]

FRAMES, BEFORE = 15, 30  # of a wedge; simulated before and after it, which is not measured
# System, seed, mosaic spread in degrees; several spots on each frame.
WORLDS = (("orthorhombic", 2, 0.15), ("triclinic", 8, 0.25))
NAMES = ("frame", "slow", "fast")


@dataclass
class Wedges:
    """Peaks of worlds with four wedges, and what is refined with them.

    Attributes
    ----------
    measured : (n,) array
        Counts in the wedge of true reflections that are well on the detector.
    found : (n,) array
        True for reflections with a peak.
    beyond : (n,) array
        True for reflections that are in the sphere before or after the wedge.
    off, sigma : (m, 3) array
        Deviations (frame, slow, fast) of the peaks that are given to the refinement.
    cut : (m,) array
    pulls : array
        Cell and orientation against the truth.
    """

    measured: Floats
    found: NDArray[np.bool_]
    beyond: NDArray[np.bool_]
    off: Floats
    sigma: Floats
    cut: NDArray[np.bool_]
    pulls: Floats


def wedges(system: str, seed: int, mosaic: float) -> Wedges:
    n = FRAMES + 2 * BEFORE
    world = frame_world(
        "plain", system, seed, n_frames=n, step=0.1, rotations=4, mosaic=mosaic,
        shape=(240, 240), arm=0.0, strong=1e4,
    )  # fmt: skip
    middle = range(BEFORE, BEFORE + FRAMES)
    frames = [np.stack([world.frame(r, z) for z in middle]) for r in range(4)]
    tables = [searched(stack, (stack == MASKED).all(axis=0)) for stack in frames]
    headers = world.draft.header_scans
    short = [replace(s, start=s.start + BEFORE * s.step, n_frames=FRAMES) for s in headers]
    known = SimpleNamespace(instrument=world.draft.header, scans=short, temperature=300.0)
    scans = [scan_of(known, r) for r in range(4)]  # type: ignore[arg-type]
    observed = orientation.observe([f"r{r}" for r in range(4)], scans, tables)
    parts = [_compared(world, r, tables[r], observed.tables[r]) for r in range(4)]
    ub, group = world.sample.U @ busing_levy(world.sample.cell), world.draft.space_group
    refined = refine(
        [scan.rotation for scan in scans], observed.peaks, ub, symmetry.space_group(group)
    )
    model = {"cell": refined.cell, "cell_sigma": refined.cell_sigma, "U": refined.u}
    model["orientation_sigma_deg"] = np.degrees(refined.orientation_sigma)
    answer = compared_with(world.sample, headers[0], group, model)
    pulls = np.r_[answer.cell_pulls[answer.cell_pulls != 0], answer.turn_pulls]
    return Wedges(*(np.concatenate(part) for part in zip(*parts, strict=True)), pulls)


def _compared(world, r: int, table: PeakTable, given: PeakTable) -> tuple:
    """Fields of `Wedges` of a wedge, without the pulls."""
    mine = world.spots["rotation"] == r
    truth = np.stack([world.spots[n][mine] for n in NAMES], axis=1) - [BEFORE, 0, 0]
    width = world.spots["width_frame"][mine]
    part = ndtr((FRAMES - truth[:, 0]) / width) - ndtr(-truth[:, 0] / width)
    measured = part * world.spots["intensity"][mine]
    on = (truth[:, 1:] > 8).all(axis=1) & (truth[:, 1:] < 232).all(axis=1)
    on[on] = world.module[tuple(truth[on, 1:].astype(int).T)] >= 0
    peaks = np.stack([table.slow, table.fast], axis=1)
    near = np.linalg.norm(truth[:, None, 1:] - peaks, axis=2).min(axis=1) < 2
    beyond = (truth[:, 0] < 0) | (truth[:, 0] > FRAMES)
    # A peak belongs to the only true spot that is measured in its neighbourhood.
    bright = truth[measured > 20]
    at = np.stack([getattr(given, n) for n in NAMES], axis=1)
    far = np.linalg.norm(at[:, None, 1:] - bright[:, 1:], axis=2)
    alone = (far.min(axis=1) < 2.5) & (np.sort(far, axis=1)[:, 1] > 8)
    off = (at - bright[far.argmin(axis=1)])[alone]
    sigma = np.sqrt(np.stack([getattr(given, f"var_{n}") for n in NAMES], axis=1))[alone]
    ends = np.minimum(given.frame, FRAMES - given.frame) < 2 * given.width_frame
    return measured[on], near[on], beyond[on], off, sigma, ends[alone]


@pytest.fixture(scope="module")
def all_wedges() -> Wedges:
    parts = [wedges(*world) for world in WORLDS]
    return Wedges(*(np.concatenate([vars(p)[n] for p in parts]) for n in vars(parts[0])))


@pytest.mark.slow
def test_peaks_that_the_ends_cut_are_found(all_wedges: Wedges) -> None:
    strong = all_wedges.measured > 300
    for beyond in (False, True):
        mine = strong & (all_wedges.beyond == beyond)
        assert mine.sum() > 20
        assert all_wedges.found[mine].mean() > 0.95


def test_errors_of_cut_peaks_cover_the_truth(all_wedges: Wedges) -> None:
    pulls = (all_wedges.off / all_wedges.sigma)[all_wedges.cut]
    assert len(pulls) > 60
    # The centre along the scan has the error of a curve that is not a Gaussian, as a crystal of few
    # blocks has it; here it is an upper limit.
    robust = 1.4826 * np.median(np.abs(pulls), axis=0)
    assert robust[0] < 1.2
    assert np.mean(np.abs(pulls[:, 0]) > 3) < 0.02
    widths = np.std(pulls[:, 1:], axis=0)
    assert (np.abs(widths - 1) < 0.25).all()


def test_cell_and_orientation_have_their_errors(all_wedges: Wedges) -> None:
    assert 0.8 < np.sqrt(np.mean(all_wedges.pulls**2)) < 1.25
