"""A slip cuts the spots in two that are on the detector at that moment."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.special import ndtr
from tests.orientation.test_steadiness import Case

from hklflow.orientation import refinement, steadiness
from hklflow.orientation.residuals import Peaks, compare


def of_slip(seed: int, mosaic: float, turn: float) -> tuple[list[steadiness.Motion], float]:
    """Motions of a crystal that rotates by `turn` (degrees) at a frame, and this frame.

    A spot is a Gaussian of frames; the slip leaves the part of it before the frame where the
    crystal was, and puts the part after it where the crystal is then.
    """
    case = Case("plain", "monoclinic", 3, None)
    (peaks,), (scan,) = case.peaks, case.refined.rotations
    hkl, rng = case.refined.hkl.astype(float), np.random.default_rng(seed)

    def places(angles: np.ndarray) -> np.ndarray:
        ub = Rotation.from_rotvec(np.radians(angles)).as_matrix() @ case.refined.ub
        return peaks.position - compare(scan, ub, hkl, peaks.position)[0]

    axis = rng.normal(size=3)
    before, after = places(np.zeros(3)), places(turn * axis / np.linalg.norm(axis))
    scatter = [places(mosaic * rng.normal(size=3))[:, 2] for _ in range(12)]
    width = np.maximum(np.std(scatter, axis=0), 0.15)[:, None]
    slip = float(rng.integers(60, scan.scan.n_frames - 60))
    u, v = ((x[:, 2:] - slip) / width for x in (before, after))
    shares = np.hstack([ndtr(-u), ndtr(v)])
    bells = np.exp(-(np.hstack([u, v]) ** 2) / 2) / np.sqrt(2 * np.pi)
    parts = np.stack([before, after], axis=1)
    parts[:, :, 2] += width * bells / np.maximum(shares, 1e-9) * [-1, 1]
    total = shares.sum(axis=1)
    centroid = np.sum(shares[:, :, None] * parts, axis=1) / np.maximum(total, 1e-9)[:, None]
    seen = case.refined.indexed & np.isfinite(centroid).all(axis=1) & (total > 0.2)
    noisy = centroid + peaks.sigma * rng.normal(size=centroid.shape)
    slow, fast, frame = noisy[seen].T
    moved: Peaks = replace(peaks.select(np.nonzero(seen)[0]), slow=slow, fast=fast, frame=frame)
    limits = refinement.RefinementLimits(hkl=0.25, min_fraction=0.3)
    refined = refinement.refine(
        [scan], [moved], case.refined.ub, case.group, free=case.free, limits=limits
    )
    return steadiness.motions(refined, [moved], case.group, case.free), slip


@pytest.mark.parametrize("mosaic", [0.05, 0.3])
def test_one_slip_is_one_motion_and_its_interval_contains_it(mosaic: float) -> None:
    """Spots that it cuts fit neither part: they looked like a second slip, next to the first."""
    covered, motions = 0, 0
    for seed in range(20):
        found, slip = of_slip(seed, mosaic, 0.3)
        first = found[0]
        assert first.kind == "slip"
        assert first.interval is not None
        covered += first.interval[0] <= slip <= first.interval[1]
        motions += len(found)
    assert covered >= 18
    assert motions <= 21
