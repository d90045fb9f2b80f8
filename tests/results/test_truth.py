"""Errors of cuts against known S: pulls have mean 0 and width 1, also where one orbit repeats."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

import hklflow
from hklflow.results import Volume

from .truth import GROUPS, Case, expected, length, made

Pulls = dict[str, list[float]]


def boxes(
    case: Case,
    volume: Volume,
    estimand: str,
    pulls: Pulls,
    halves: tuple[float, ...] = (0.12, 0.23),
) -> None:
    hkl = case.hkl
    rng = np.random.default_rng(1)
    for centre in [*rng.uniform(-0.6, 0.6, (8, 3)), np.zeros(3)]:
        for half in halves:
            low, high = centre - half, centre + half
            h, k, l = zip(low, high, strict=True)  # noqa: E741
            cut = volume.box(h=h, k=k, l=l, estimand=estimand)
            inside = np.all((hkl >= low) & (hkl <= high), axis=-1)
            assert cut.voxels == inside.sum()
            pulls["box"].append(pull(cut, (), expected(case, inside, estimand)))


def lines(case: Case, volume: Volume, estimand: str, pulls: Pulls) -> None:
    hkl, width = case.hkl, 0.5
    ends = ((-0.9, 0, 0), (0.9, 0, 0)), ((-0.8, -0.8, 0.2), (0.8, 0.8, 0.2))
    for a, b in (*ends, ((0.1, 0.5, -0.9), (0.1, 0.5, 0.9))):
        cut = volume.line(a, b, width, estimand=estimand)
        # The projection by the law of cosines.
        whole = length(case.cell, np.subtract(b, a))
        from_a, from_b = (length(case.cell, hkl - end) for end in (a, b))
        along = (from_a**2 + whole**2 - from_b**2) / (2 * whole)
        near = from_a**2 - along**2 <= (width / 2) ** 2 * (1 + 1e-6)
        for i in range(cut.sizes["distance"]):
            away = np.abs(along / whole * (cut.sizes["distance"] - 1) - i)
            inside = near & ((away < 0.5 - 1e-5) | ((np.abs(away - 0.5) < 1e-5) & (i % 2 == 0)))
            assert cut.voxels[i] == inside.sum()
            pulls["line"].append(pull(cut, i, expected(case, inside, estimand)))


def shells(case: Case, volume: Volume, estimand: str, pulls: Pulls) -> None:
    cut = volume.radial(estimand=estimand)
    shell = np.floor(length(case.cell, case.hkl) / cut.attrs["step"] + 1e-6)
    for i in range(cut.sizes["Q"]):
        assert cut.voxels[i] == (shell == i).sum()
        pulls["shell"].append(pull(cut, i, expected(case, shell == i, estimand)))


def planes(case: Case, volume: Volume, estimand: str, pulls: Pulls) -> None:
    cut = volume.plane("hk0", 0.5, estimand=estimand)
    index = np.rint(case.hkl * 10).astype(int) + 9
    layer = np.abs(case.hkl[..., 2]) <= 0.25
    for i in range(0, 19, 2):
        for j in range(0, 19, 2):
            inside = layer & (index[..., 1] == i) & (index[..., 0] == j)
            pulls["plane"].append(pull(cut, (i, j), expected(case, inside, estimand)))


def pull(cut: object, at: object, truth: float) -> float:
    """(value - truth) / σ; NaN where nothing was measured."""
    value, sigma = (float(getattr(cut, name).values[at]) for name in ("S", "sigma"))
    assert np.isfinite(value) == np.isfinite(truth)
    return (value - truth) / sigma


def collect(case: Case, estimand: str, pulls: Pulls) -> None:
    volume = hklflow.open(case.path)
    for cut in (boxes, lines, shells, planes):
        cut(case, volume, estimand, pulls)


def judge(pulls: Pulls, width: float) -> None:
    """Bins of one volume share voxels, so that limits are wider than of independent draws."""
    for name, drawn in pulls.items():
        known = np.array(drawn)[np.isfinite(drawn)]
        assert abs(known.mean()) < width, (name, known.mean(), known.size)
        assert abs(known.std() - 1) < width, (name, known.std(), known.size)


@pytest.mark.slow
@pytest.mark.parametrize("estimand", ["ratio", "mean"])
def test_errors_are_right_in_all_laue_groups(tmp_path: Path, estimand: str) -> None:
    pulls: Pulls = defaultdict(list)
    for seed, symbol in enumerate(GROUPS.values()):
        collect(made(tmp_path / str(seed), symbol, seed, "symmetrised"), estimand, pulls)
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
        values = arrays.read(part, "errors")
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
