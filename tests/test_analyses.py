"""Analyses of a scan: which scans there are, their parents, layers, frames, stacks and series."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow.experiment import config
from hklflow.experiment.jobs import Plan, job_counts
from hklflow.experiment.shared_frames import copied_frames
from hklflow.geometry import lattice
from hklflow.geometry.grid import Grid
from hklflow.orientation.relation import relation
from hklflow.volumes import correlation

from .test_config import CONFIG, _problems, _with_scan, base  # noqa: F401  (base is a fixture)


def _with(**per_scan: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(CONFIG) | {"per_scan": per_scan}


ANALYSES: dict[str, dict[str, Any]] = {
    "hexa/300K": {"find_peaks": {"n_sigma": 6}, "merge": {"pool": 1}},
    "hexa/300K@tight": {"find_peaks": {"n_sigma": 9}},
    "hexa/100K@tight": {"merge": {"pool": 3}},
    "hexa/100K@loose": {"find_peaks": {"n_sigma": 4}},
    "hexa/100K@p1": {"refine_parent": {"space_group": "P 1"}},
}


def test_an_analysis_is_a_scan_with_the_frames_of_its_scan(base: Path) -> None:  # noqa: F811
    experiment = config.load(_with(**ANALYSES), base)
    names = ["300K", "300K@tight", "100K", "100K@tight", "100K@loose", "100K@p1"]
    assert list(experiment.scans) == [*(("hexa", name) for name in names), ("cube", "cold")]
    parents = {name: experiment.scans["hexa", name].parent for name in names}
    assert parents == {
        "300K": "300K",
        "300K@tight": "300K@tight",
        "100K": "300K",
        "100K@tight": "300K@tight",  # the parent's analysis of the same name
        "100K@loose": "300K",
        "100K@p1": "100K@p1",  # a space group of its own is indexed by itself
    }
    table = experiment.scans["hexa", "300K"]
    assert experiment.scans["hexa", "300K@tight"].rotations is table.rotations
    assert experiment.analyses_of("hexa", "100K") == ["100K@tight", "100K@loose", "100K@p1"]


def test_the_layers_of_an_analysis_are_those_of_its_scan_and_its_own(base: Path) -> None:  # noqa: F811
    experiment = config.load(_with(**ANALYSES), base)
    found = {
        scan: (own.find_peaks.n_sigma, own.merge.pool)
        for (sample, scan) in experiment.scans
        if sample == "hexa" and (own := experiment.settings(sample, scan))
    }
    assert found == {
        "300K": (6, 1),
        "300K@tight": (9, 1),
        "100K": (6, 1),
        "100K@tight": (9, 3),  # n_sigma of 300K@tight, its parent
        "100K@loose": (4, 1),
        "100K@p1": (6, 1),
    }


def test_frames_of_an_analysis_are_no_frames_that_count_twice(base: Path) -> None:  # noqa: F811
    experiment = config.load(_with(**{"hexa/300K@a": {}, "hexa/300K@b": {}}), base)
    assert list(copied_frames(experiment)) == []
    _with_scan(
        base,
        "hexa\t300K\t300\t\tr1\traw/a1.nxs\tphi=0:0.1\tpowder",
        "hexa\t100K\t100\t\tr1\traw/a1.nxs\tphi=0:0.1\tpowder",
    )
    [problem] = _problems(_with(**{"hexa/300K@a": {}}), base)
    assert "all frames would count twice" in problem


def test_series_and_stacks_have_each_scan_once(base: Path) -> None:  # noqa: F811
    experiment = config.load(_with(**ANALYSES), base)
    assert experiment.stacks() == [("hexa", "300K"), ("hexa", "300K@tight")]
    assert experiment.stacked("hexa", "300K") == ["100K", "300K"]
    assert experiment.stacked("hexa", "300K@tight") == ["100K@tight", "300K@tight"]
    assert experiment.measured_scans("hexa") == ["100K", "300K"]
    assert experiment.reference("hexa", "100K@tight") == "300K@tight"
    assert experiment.reference("hexa", "100K@loose") == "300K"
    assert experiment.scale_reference("hexa", "100K@tight") is None
    jobs = job_counts(experiment)
    assert sum(jobs["refine_parent"].values()) == 4
    series = Plan(experiment).job("temperature_series", sample="hexa")
    assert not any("@" in path for path in series.inputs)


def test_an_absolute_scale_is_taken_from_the_analysis_of_the_same_name(base: Path) -> None:  # noqa: F811
    (base / "a.cif").touch()
    entries: dict[str, dict[str, Any]] = {
        "hexa/300K": {"absolute_scale": {"cif": "a.cif"}},
        "hexa/100K": {"absolute_scale": {"cif": None, "reference": "300K"}},
        "hexa/300K@tight": {"find_peaks": {"n_sigma": 9}},
        "hexa/100K@tight": {"absolute_scale": {"cif": None}},
        "hexa/100K@loose": {},
    }
    experiment = config.load(_with(**entries) | {"bragg": True}, base)
    expected = {"300K": None, "100K": "300K", "100K@tight": "300K@tight", "100K@loose": "300K"}
    for scan, reference in expected.items():
        assert experiment.scale_reference("hexa", scan) == reference
    job = Plan(experiment).job("absolute_scale", sample="hexa", scan="100K@tight")
    assert "out/hexa/300K@tight/transform.nxs" in job.inputs
    assert "out/hexa/300K/transform.nxs" not in job.inputs


def test_a_problem_of_a_row_is_reported_once(base: Path) -> None:  # noqa: F811
    (base / "raw/run").mkdir()
    _with_scan(base, "cube\tcold\t\t\tonly\traw/run\t\t")
    problems = _problems(_with(**{"cube/cold@a": {}, "cube/cold@b": {}}), base)
    assert len(problems) == len(set(problems))
    assert sum("is a folder" in problem for problem in problems) == 1


def test_frames_are_summed_once_unless_the_analysis_sums_otherwise(base: Path) -> None:  # noqa: F811
    _with_scan(base, "cube\tcold\t\t\tonly\traw/a1.nxs + raw/a2.nxs\t\t")
    analyses: dict[str, dict[str, Any]] = {"cube/cold@same": {"find_peaks": {"n_sigma": 9}}}
    field = next(iter(config.Config().sum_scans.model_dump()))
    default = getattr(config.Config().sum_scans, field)
    analyses["cube/cold@other"] = {"sum_scans": {field: _another(default)}}
    plan = Plan(config.load(_with(**analyses), base))
    made = {job.at["scan"] for job in plan.jobs if job.rule == "sum_scans"}
    assert made == {"cold", "cold@other"}
    for scan, source in (("cold", "cold"), ("cold@same", "cold"), ("cold@other", "cold@other")):
        job = plan.job("import_scan", sample="cube", scan=scan, rotation="only")
        assert job.files("raw") == [f"out/cube/{source}/only/sum.nxs"]


def _another(value: Any) -> Any:
    return not value if isinstance(value, bool) else 2 * value


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hexa/300K@", "analysis '' may only have"),
        ("hexa/300K@a_b", "analysis 'a_b' may only have"),
        ("hexa/300K@a@b", "analysis 'a@b' may only have"),
        ("hexa/20K@a", "there is no scan 'hexa/20K@a'"),
        ("hexa/300K@" + "x" * 62, "names have 64 at most"),
    ],
)
def test_wrong_names_of_analyses(base: Path, name: str, told: str) -> None:  # noqa: F811
    problems = _problems(_with(**{name: {}}), base)
    assert any(told in problem for problem in problems), problems


# ------------------------------------------------------------------ lattices that differ


def _ub(cell: tuple[float, ...], u: np.ndarray) -> np.ndarray:
    return np.asarray(u @ lattice.b_matrix(cell))


def _rotation(axis: tuple[float, ...], degrees: float) -> np.ndarray:
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k)


def test_the_relation_of_two_settings_is_found_with_the_rotation_that_is_left() -> None:
    u = _rotation((1.0, 2.0, -0.5), 40)
    a = _ub((4.75, 4.75, 7.2, 90, 90, 120), u)
    # Direct axes a', b', c' of B are rows of P in those of A; indices transform the same way.
    for p in ([[0, 1, 0], [-1, -1, 0], [0, 0, 1]], [[2, 1, 0], [0, 1, 0], [0, 0, 2]]):
        b = _rotation((0.3, 1.0, 1.0), 0.02).T @ a @ np.linalg.inv(np.array(p, float))
        found = relation(a, b)
        assert found is not None
        assert np.array_equal(found.matrix, p)
        assert found.angle == pytest.approx(0.02, rel=1e-6)
        assert found.strain < 1e-9
    same = relation(a, a)
    assert same is not None
    assert same.same_indices
    assert relation(a, _ub((5.13, 6.37, 8.11, 83, 97, 104), u)) is None


def test_voxels_at_one_place_are_compared_in_any_setting() -> None:
    """S as a function of Q on two grids: CC 1 and ratio 2, also with indices exchanged."""
    cell = (4.0, 5.0, 6.0, 90.0, 90.0, 90.0)
    exchanged = (5.0, 4.0, 6.0, 90.0, 90.0, 90.0)
    a, b = (
        Grid.symmetric((2, 3, 2), (0.25, 0.25, 0.5)),
        Grid.symmetric((3, 2, 3), (0.25, 0.25, 0.5)),
    )
    matrix = [[0, 1, 0], [1, 0, 0], [0, 0, -1]]

    def of(grid: Grid, own: tuple[float, ...], swap: bool) -> np.ndarray:
        star = 2 * np.pi / np.array(own[:3])
        h, k, l = (grid.axis(i) * star[i] for i in range(3))  # noqa: E741
        x, y, z = (k, h, -l) if swap else (h, k, l)
        axes = (z[:, None, None], y[None, :, None], x[None, None, :])
        if swap:
            axes = (z[:, None, None], y[None, None, :], x[None, :, None])
        return np.asarray(2 + np.sin(axes[0]) + np.cos(2 * axes[1] + 1) * np.sin(axes[2] - 0.4))

    s_a, s_b = of(a, cell, swap=False), 2 * of(b, exchanged, swap=True)
    reach = correlation.reach(a, cell)
    shells = correlation.Correlation(reach, 4)
    n = 0
    for first in range(0, a.array_shape[0], 4):
        last = min(first + 4, a.array_shape[0])
        place = correlation.places(a, b, matrix, first, last)
        q = correlation.lengths(a, cell, first, last)
        assert q.max() <= reach * (1 + 1e-12)
        shells.add(q[place.inside], s_a[first:last][place.inside], s_b[tuple(place.at)])
        n += place.inside.sum()
    assert n == np.prod(a.array_shape)
    for row in shells.figures():
        assert row["cc"] == pytest.approx(1, abs=1e-12)
        assert row["ratio"] == pytest.approx(2)
    # Grids whose centres differ by half a step have no common places.
    shifted = Grid(b.first + 0.5 * b.step, b.step, b.shape)
    assert not correlation.places(a, shifted, matrix, 0, 4).inside.any()


def test_noise_lowers_the_correlation_as_its_law_says() -> None:
    """CC of signal + noise with signal + other noise: var(s) / (var(s) + var(n))."""
    rng = np.random.default_rng(3)
    signal = rng.normal(size=400_000)
    a, b = (5 + signal + 0.7 * rng.normal(size=signal.size) for _ in range(2))
    shells = correlation.Correlation(2.0, 1)
    shells.add(np.ones(signal.size), a, b)
    [row] = shells.figures()
    assert row["cc"] == pytest.approx(1 / 1.49, abs=0.005)
