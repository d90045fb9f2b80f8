"""Spots of mosaic crystals, block by block; an end of the scan cuts a part of the blocks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.truth import lcysteine, worlds
from tests.truth.defaults import peak_params
from tests.truth.world_scans import rotation_of

from hklflow.formats.raw import open_frames
from hklflow.geometry import BEAM, Rotation
from hklflow.geometry.prediction import ewald_crossings, predict
from hklflow.orientation.cut import whole
from hklflow.orientation.residuals import CENTROID
from hklflow.peaks.sampling import with_sampling
from hklflow.peaks.search import find_peaks
from hklflow.peaks.table import PeakFlag, PeakTable

Floats = NDArray[np.float64]

MOSAIC = np.radians(0.4)
N_BLOCKS = 40_000
N_FRAMES = 15  # of a sweep of L-cysteine
NAMES = ("frame", "slow", "fast")


@pytest.mark.parametrize("depth", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("last", [False, True])
def test_the_spot_of_the_whole_crystal_is_found_from_a_part(depth: float, last: bool) -> None:
    """The end of the scan is `depth` widths from the centre of the curve."""
    rng = np.random.default_rng(3)
    rotation = rotation_of(worlds.world("plain", "triclinic", 3), 0)
    parts, corrected = [], []
    for frame, slow, fast in _blocks(rotation, rng):
        centre, width = frame.mean(), frame.std()
        start = centre + (depth * width - 100 if last else -depth * width)
        seen = frame < start + 100 if last else frame > start
        scan = rotation.scan
        short = replace(scan, start=scan.start + start * scan.step, n_frames=100)
        fit = (centre - start, slow[seen].mean(), fast[seen].mean(), 0.0, 0.0, 0.0, width)
        found = whole(replace(rotation, scan=short), *(np.array([x]) for x in fit))
        truth = np.array([slow.mean(), fast.mean()])
        parts.append(np.array(fit[1:3]) - truth)
        corrected.append(np.ravel(found[1:3]) - truth)
    before, after = (np.sqrt(np.mean(np.square(x))) for x in (parts, corrected))
    # 40000 blocks with arcs of a pixel: 0.005
    assert before > 0.02
    assert after < max(0.15 * before, 0.007)


def _blocks(rotation: Rotation, rng: np.random.Generator) -> Iterator[tuple[Floats, ...]]:
    """Yield frame, slow and fast of the spots of all blocks, for 20 reflections that move."""
    grid = 0.5 * (np.indices((13, 13, 13)).reshape(3, -1).T - 6)
    spots = predict(rotation, np.eye(3), grid)
    moving = (spots.zeta > 0.4) & (spots.zeta < 0.7)
    for k in rng.permutation(np.flatnonzero(moving))[:20]:
        g = grid[spots.index[k]]
        blocks = g + np.cross(rng.normal(scale=MOSAIC, size=(N_BLOCKS, 3)), g)
        angles, q = ewald_crossings(rotation, np.eye(3), blocks)
        late = (angles - spots.angle[k] + np.pi) % (2 * np.pi) - np.pi
        at = np.arange(N_BLOCKS), np.abs(late).argmin(axis=1)
        slow, fast = rotation.detector.intersect(q[at] / rotation.beam.k + BEAM)
        yield spots.frame[k] + late[at] / rotation.scan.step, slow, fast


def searched(frames: NDArray[np.uint32], bad: NDArray[np.bool_]) -> PeakTable:
    """Peaks with the errors of the stage."""
    found = find_peaks([frames], bad, peak_params())
    errors = {
        f"var_{n}": with_sampling(getattr(found, f"var_{n}"), getattr(found, f"width_{n}"))
        for n in NAMES
    }
    return replace(found, **{name: value + 0.005**2 for name, value in errors.items()})


@pytest.mark.real_data
@pytest.mark.slow
def test_measured_curves_cut_at_known_places_have_their_errors(real_data: Path) -> None:
    """Whole curves of L-cysteine, searched again on a part of the frames."""
    pulls, raw = [], []
    for sweep in lcysteine.SWEEPS:
        rotation = lcysteine.rotation(sweep)
        with open_frames(
            str(real_data / "rotation_lcysteine" / f"l-cyst_{sweep}_#####.cbf.gz")
        ) as series:
            counts = np.asarray(series.read(0, N_FRAMES))
        bad, frames = (counts < 0).any(axis=0), np.maximum(counts, 0).astype(np.uint32)
        complete = searched(frames, bad)
        complete = complete.select(
            (complete.flags & ~int(PeakFlag.EDGE | PeakFlag.MASKED | PeakFlag.OVERLAP)) == 0
        )
        for first, end in [(0, k) for k in range(5, 11)] + [(k, 15) for k in range(5, 11)]:
            part = searched(frames[first:end], bad)
            scan = replace(rotation.scan, n_frames=end - first)
            scan = replace(scan, start=scan.start + first * scan.step)
            inside = (part.frame > 0) & (part.frame < end - first)
            depth = np.minimum(part.frame, end - first - part.frame) / part.width_frame
            fitted = part.flags & int(PeakFlag.LONG | PeakFlag.MOMENTS | PeakFlag.FIT_FAILED) == 0
            part = part.select(inside & fitted & (depth < 2))
            columns = [getattr(part, name) for name in (*CENTROID, "width_frame")]
            found = np.stack(whole(replace(rotation, scan=scan), *columns), axis=1)
            truth = np.stack([complete.frame - first, complete.slow, complete.fast], axis=1)
            far = np.linalg.norm(found[:, None, 1:3] - truth[:, 1:], axis=2)
            alone = (far.min(axis=1) < 4) & (np.sort(far, axis=1)[:, 1] > 10)
            truth = truth[far.argmin(axis=1)][alone]
            pulls.append((found[alone, :3] - truth) / np.sqrt(found[alone, 3:]))
            raw.append((np.stack(columns[:3], axis=1)[alone] - truth) / np.stack(columns[3:6], axis=1)[alone] ** 0.5)
    pulls, raw = np.concatenate(pulls), np.concatenate(raw)
    print(len(pulls), 1.4826 * np.median(np.abs(pulls), axis=0), np.std(pulls, axis=0), np.mean(np.abs(pulls) > 4, axis=0))
    print(len(raw), 1.4826 * np.median(np.abs(raw), axis=0), np.std(raw, axis=0), np.mean(np.abs(raw) > 4, axis=0))
