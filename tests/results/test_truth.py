"""Errors of cuts against known S: pulls have mean 0 and width 1, also where one orbit repeats."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import hklflow
from tests.truth.cuts import GROUPS, Pulls, collect, made


def judge(pulls: Pulls, width: float) -> None:
    """Bins of one volume share voxels, so that limits are wider than of independent draws."""
    for name, drawn in pulls.items():
        known = np.array(drawn)[np.isfinite(drawn)]
        assert abs(known.mean()) < width, (name, known.mean(), known.size)
        assert abs(known.std() - 1) < width, (name, known.std(), known.size)


@pytest.mark.slow
def test_errors_are_right_in_all_laue_groups(tmp_path: Path) -> None:
    every: dict[str, Pulls] = {"ratio": defaultdict(list), "mean": defaultdict(list)}
    for seed, symbol in enumerate(GROUPS.values()):
        case = made(tmp_path / str(seed), symbol, seed, "symmetrised")
        for estimand, pulls in every.items():
            collect(case, estimand, pulls)
    for pulls in every.values():
        judge(pulls, 0.2)


def test_images_count_once(tmp_path: Path) -> None:
    case = made(tmp_path, GROUPS["m-3m"], 5, "symmetrised")
    volume = hklflow.open(case.path)
    merged = hklflow.open(made(tmp_path / "m", GROUPS["m-3m"], 5, "merged").path)
    # The whole volume: all images of each orbit, so that nothing was gained.
    one, other = volume.box(), merged.box()
    assert float(one.S) == pytest.approx(float(other.S), rel=1e-6)
    assert float(one.sigma) == pytest.approx(float(other.sigma), rel=0.02)
    # A box without images: the symmetrised volume has the errors of its own voxels.
    ranges = {"h": (0.55, 0.85), "k": (0.25, 0.45), "l": (0.05, 0.15)}
    cut = volume.box(**ranges, estimand="mean")
    part = (slice(10, 11), slice(12, 14), slice(15, 18))
    with volume._source.open() as arrays:
        values = arrays.read(part, "data", "errors")
    assert cut.voxels == 6
    assert float(cut.S) == pytest.approx(values["data"].mean(), rel=1e-6)
    assert float(cut.sigma) == pytest.approx(np.sqrt((values["errors"] ** 2).sum()) / 6, rel=1e-6)


@pytest.mark.slow
def test_errors_are_right_of_merged_volumes(tmp_path: Path) -> None:
    pulls: Pulls = defaultdict(list)
    for seed in range(4):
        case = made(tmp_path / str(seed), GROUPS["6/m"], seed, "merged")
        for estimand in ("ratio", "mean"):
            collect(case, estimand, pulls)
    judge(pulls, 0.2)
