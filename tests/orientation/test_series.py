"""`orientation.series`: errors, rocking widths, scales and departures against known truth."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice, prediction
from hklflow.orientation import series
from hklflow.peaks.table import PeakFlag, PeakTable

CELL = (5.1, 6.2, 7.9, 81.0, 97.0, 109.0)
MOSAIC = 0.004
_AXES = ("chi", "phi")


def rotation(step: float = 0.5, chi: float = 20.0) -> Rotation:
    """Half a turn about a tilted axis."""
    return Rotation(
        Beam(0.6, 0.99),
        Detector(
            (500, 480),
            (4e-4, 4e-4),
            np.array([0.1, 0.1, 0.09]),
            np.array([0.0, -1.0, 0.0]),
            np.array([-1.0, 0.0, 0.0]),
        ),
        Goniometer(_AXES, np.array([[0, 0, 1.0], [-1, 0, 0]]), np.radians([chi, 0.0]), 1),
        Scan(np.radians(-30.0), np.radians(step), int(180 / step)),
    )


UB = np.linalg.qr(np.array([[2.0, 1, 0.3], [-1, 2, 0.2], [0.4, -0.3, 2]]))[0]
UB = (UB * np.linalg.det(UB)) @ lattice.b_matrix(CELL)
HKL = lattice.indices_within(CELL, 6.0)


def peaks_of(where: Rotation, seed: int, frame_scale: np.ndarray, noise: float = 0.03) -> PeakTable:
    """Peaks of intensity 5000 (1 + |l|) over the time in diffracting position."""
    rng = np.random.default_rng(seed)
    found = prediction.predict(where, UB, HKL)
    keep = found.zeta > 0.05
    frame, slow, fast, zeta = (
        getattr(found, name)[keep] for name in ("frame", "slow", "fast", "zeta")
    )
    hkl = HKL[found.index[keep]]
    n = len(frame)
    step = where.scan.step
    # sin 2θ = |ŝ × ẑ|; a crossing takes a time ∝ 1 / (ζ sin 2θ), in frames ∝ 1 / step
    theta2 = 2 * np.arcsin(
        where.beam.wavelength / 2 / lattice.d_spacing(lattice.decompose_ub(UB)[1], hkl)
    )
    counts = 50.0 * (1 + np.abs(hkl[:, 2])) / (zeta * np.sin(theta2) * abs(step))
    counts *= frame_scale[np.minimum(frame.astype(int), where.scan.n_frames - 1)]
    width = MOSAIC / (zeta * abs(step)) * (1 + noise * rng.standard_normal(n))
    ones = np.ones(n)
    columns = dict.fromkeys(("width_slow", "width_fast", "background", "chi2"), ones)
    columns |= {f"var_{name}": 0.01 * ones for name in ("frame", "slow", "fast")}
    whole = {name: np.ones(n, np.int64) for name in ("n_pixels", "n_frames")}
    return PeakTable(
        frame=frame,
        slow=slow,
        fast=fast,
        width_frame=width,
        intensity=counts,
        var_intensity=counts / 4,
        maximum=counts,
        significance=np.sqrt(counts),
        flags=np.zeros(n, np.int64),
        counts={},
        **columns,
        **whole,
    )


# ------------------------------------------------------------------------- one scan


def test_volume_sigma_is_that_of_many_cells() -> None:
    rng = np.random.default_rng(1)
    root = rng.normal(size=(6, 6)) * np.array([1e-3, 1e-3, 1e-3, 0.02, 0.02, 0.02])[:, None]
    cells = np.array(CELL) + rng.standard_normal((20000, 6)) @ root.T
    volumes = [lattice.volume(cell) for cell in cells]
    # 20000 draws know a standard deviation to 0.5 %.
    assert lattice.volume_sigma(CELL, root @ root.T) == pytest.approx(np.std(volumes), rel=0.02)


@pytest.mark.parametrize(("p", "n"), [(0.9, 400), (0.3, 50), (0.98, 2000)])
def test_fraction_sigma_is_that_of_counting(p: float, n: int) -> None:
    drawn = np.random.default_rng(2).binomial(n, p, 20000) / n
    assert series.fraction_sigma(p, n) == pytest.approx(drawn.std(), rel=0.05)


def test_a_fraction_of_one_is_not_exact() -> None:
    # All of n: the Beta(n + ½, ½) distribution, about 1 / (n √2).
    for p in (0.0, 1.0):
        assert series.fraction_sigma(p, 100) == pytest.approx(1 / (100 * np.sqrt(2)), rel=0.05)


def test_intensities_lose_lorentz_factor_speed_and_frame_scale() -> None:
    for step in (0.5, 0.25):
        for chi in (20.0, -50.0):
            where = rotation(step, chi)
            scale = 2 + np.sin(np.arange(where.scan.n_frames) / 7)
            table = peaks_of(where, 3, scale)
            table = replace(table, var_intensity=(0.1 * table.intensity) ** 2)
            found = series.reflections(where, UB, table, scale)
            assert len(found.hkl) > 500
            np.testing.assert_allclose(
                found.intensity, 50.0 * (1 + np.abs(found.hkl[:, 2])), rtol=1e-9
            )
            d = lattice.d_spacing(lattice.decompose_ub(UB)[1], found.hkl)
            np.testing.assert_allclose(found.s, 1 / (2 * d), rtol=1e-9)
            np.testing.assert_allclose(found.var, (0.1 * found.intensity) ** 2)


def test_the_two_crossings_of_a_reflection_are_told_apart() -> None:
    where = rotation()
    scale = np.ones(where.scan.n_frames)
    found = series.reflections(where, UB, peaks_of(where, 3, scale), scale)
    keys = np.column_stack([found.hkl, found.side, found.turn])
    assert len(np.unique(keys, axis=0)) == len(keys)
    assert len(np.unique(found.hkl, axis=0)) < len(keys)


@pytest.mark.parametrize("flag", ["EDGE", "MASKED", "SCAN_END", "OVERLAP", "OVERLOAD", "MOMENTS"])
def test_flagged_peaks_and_peaks_between_reflections_are_left_out(flag: str) -> None:
    where = rotation()
    scale = np.ones(where.scan.n_frames)
    table = peaks_of(where, 3, scale)
    all_of_them = series.reflections(where, UB, table, scale)
    flags = table.flags.copy()
    flags[::2] = int(PeakFlag[flag])
    half = series.reflections(where, UB, replace(table, flags=flags), scale)
    assert abs(len(half.hkl) - len(all_of_them.hkl) / 2) < 0.1 * len(half.hkl)
    shifted = UB @ np.diag([1 / 0.55, 1, 1])  # h becomes 0.55 h
    between = series.reflections(where, shifted, table, scale)
    assert len(between.hkl) < 0.6 * len(all_of_them.hkl)


def test_mosaic_width_is_the_crystals_and_its_error_that_of_many_scans() -> None:
    where = rotation()
    scale = np.ones(where.scan.n_frames)
    pulls, sigmas = [], []
    for seed in range(25):
        table = peaks_of(where, seed, scale, noise=0.1)
        rng = np.random.default_rng(seed)
        some = rng.permutation(len(table))[:400]
        wild = table.width_frame.copy()
        wild[::25] *= 5
        table = replace(table, width_frame=wild).select(np.sort(some))
        found = series.mosaic_width([series.reflections(where, UB, table, scale)])
        pulls.append((found.value - MOSAIC) / found.sigma)
        sigmas.append(found.sigma)
    # 4 % of five times the width move the median by 0.05 of the scatter.
    assert abs(np.mean(pulls)) < 0.05 * np.sqrt(400) / 1.25 + 3 / np.sqrt(25)
    assert 0.65 < np.std(pulls) < 1.4
    assert np.mean(sigmas) == pytest.approx(1.25 * 0.1 * MOSAIC / np.sqrt(350), rel=0.25)


def test_no_width_from_reflections_within_one_frame() -> None:
    where = rotation()
    scale = np.ones(where.scan.n_frames)
    table = peaks_of(where, 3, scale)
    flags = table.flags.copy()
    flags[::3] = int(PeakFlag.SINGLE_FRAME)
    found = series.reflections(where, UB, replace(table, flags=flags), scale)
    assert np.isnan(series.mosaic_width([found]).value)
    assert np.isnan(series.mosaic_width([]).value)


# ------------------------------------------------------------------------ two scans


def pair(
    rng: np.random.Generator, k: float, b: float, n: int, scatter: float, wild: float
) -> tuple[series.Reflections, series.Reflections]:
    """Reflections of a scan and of its parent; some of the scan's intensities are wild."""
    hkl = np.column_stack([np.arange(1, n + 1), np.zeros((n, 2), int)]).astype(np.int64)
    s = rng.uniform(0.1, 0.8, n)
    strength = rng.lognormal(8.5, 1.2, n)
    expected = strength * k * np.exp(-2 * b * s**2) * np.exp(scatter * rng.standard_normal(n))
    expected *= np.where(rng.random(n) < wild, rng.uniform(2, 10, n), 1)
    members = []
    for mean in (expected, strength):
        counts = rng.poisson(mean).astype(float)
        seen = counts > 0
        ones = np.ones(int(seen.sum()))
        members.append(
            series.Reflections(
                hkl=hkl[seen],
                side=ones.astype(np.int64),
                turn=0 * ones.astype(np.int64),
                s=s[seen],
                zeta=ones,
                intensity=counts[seen],
                var=counts[seen],
                width=ones,
                single=ones < 0,
            )
        )
    return members[0], members[1]


@pytest.mark.parametrize(("scatter", "wild"), [(0.0, 0.0), (0.05, 0.0), (0.2, 0.0), (0.05, 0.03)])
def test_scale_and_debye_waller_factor_of_a_scan_against_its_parent(
    scatter: float, wild: float
) -> None:
    rng = np.random.default_rng([int(100 * scatter), int(100 * wild), 7])
    k, b = 1.7, -0.4
    pulls = []
    for _ in range(80):
        ours, theirs = pair(rng, k, b, 150, scatter, wild)
        found = series.relative_scale({"r1": ours}, {"r1": theirs})
        pulls.append(
            (
                (found.scale - k) / found.scale_sigma,
                (found.debye_waller - b) / found.debye_waller_sigma,
            )
        )
        assert found.n > 100
        if scatter and not wild:
            assert found.scatter == pytest.approx(scatter, rel=0.5)
    mean, width = np.mean(pulls, axis=0), np.std(pulls, axis=0)
    # Wild values pull by their share times 1.345 σ each: 0.4 of the error of 120 reflections.
    assert np.all(np.abs(mean) < (0.3 if wild == 0 else 0.7))
    # 80 pulls know their width to 0.08.
    assert np.all((width > 0.75) & (width < 1.3))


def test_only_the_same_crossing_in_the_same_rotation_is_compared() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = pair(rng, 2.0, 0.0, 100, 0.0, 0.0)
    other_side = replace(theirs, side=-theirs.side, intensity=100 * theirs.intensity)
    twice = {"r1": ours, "r2": replace(ours, intensity=9 * ours.intensity)}
    found = series.relative_scale(twice, {"r1": theirs, "r3": other_side})
    assert found.scale == pytest.approx(2.0, rel=0.02)
    assert found.n <= 100
    nothing = series.relative_scale({"r1": ours}, {"r1": other_side})
    assert nothing.n == 0
    assert np.isnan(nothing.scale)
    # Seen twice, nobody knows which is which.
    double = series.Reflections(
        **{name: np.concatenate([getattr(ours, name)] * 2) for name in vars(ours)}
    )
    assert series.relative_scale({"r1": double}, {"r1": theirs}).n == 0


# ----------------------------------------------------------------------- the series


def smooth(at: np.ndarray, alpha: float, change: float) -> np.ndarray:
    """Length with the expansion coefficient ``alpha`` at 300 K that changes linearly."""
    return 5.0 * (1 + alpha * (at - 300) + 0.5 * change * (at - 300) ** 2)


@pytest.mark.parametrize("change", [4e-8, 0.0, -2e-8])
@pytest.mark.parametrize("alpha", [1e-5, 2.5e-5, -5e-6])
@pytest.mark.parametrize("relative_sigma", [1e-6, 1e-5, 1e-4])
def test_smooth_expansion_is_no_departure(
    alpha: float, change: float, relative_sigma: float
) -> None:
    rng = np.random.default_rng([int(1e7 * abs(alpha)), int(1e6 * relative_sigma)])
    for n, (low, top) in itertools.product(range(5, 13), ((20, 300), (100, 500))):
        at = np.linspace(low, top, n)
        for _ in range(5):
            sigma = np.full(n, 5 * relative_sigma)
            values = smooth(at, alpha, change) + sigma * rng.standard_normal(n)
            assert series.departures(at, values, sigma, 5.0) == []


def test_an_expansion_that_freezes_out_is_no_departure() -> None:
    # Einstein's model at 150 K: the expansion coefficient of a normal solid down to 5 K.
    for at in (np.linspace(5, 300, 7), np.linspace(5, 300, 30), np.array([5.0, 90, 100, 110, 300])):
        energy = 150 / np.expm1(150 / at)
        values = 5 * (1 + 2e-5 * energy)
        assert series.departures(at, values, np.full(len(at), 1e-5), 5.0) == []


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("kind", ["onset", "jump"])
@pytest.mark.parametrize("n", [6, 11, 21])
def test_a_transition_is_found_between_the_right_temperatures(n: int, kind: str, sign: int) -> None:
    rng = np.random.default_rng(n)
    at = np.linspace(300, 50, n)
    for t_c in (160.0, 140.0):
        below = at < t_c
        strain = np.where(below, 2e-3, 0.0)
        if kind == "onset":
            strain = 6e-3 * np.sqrt(np.clip(1 - at / t_c, 0, None))
        values = smooth(at, 1.5e-5, 2e-8) + 5 * sign * strain + 5e-5 * rng.standard_normal(n)
        order = rng.permutation(n)
        found = series.departures(at[order], values[order], np.full(n, 5e-5), 5.0)
        assert len(found) == 1
        assert found[0].warmer == at[~below].min()
        assert found[0].colder == at[below].max()
        assert np.sign(found[0].strain) == sign
        size = strain[np.argmax(below)]
        # A contraction is only told from normal contraction by what exceeds the line.
        assert abs(found[0].strain) <= size + 3e-4
        assert abs(found[0].strain) > 0.5 * size


def test_a_small_or_uncertain_step_is_no_departure() -> None:
    at = np.linspace(300, 50, 11)
    step = np.where(at < 160, 1.0, 0.0)
    straight = smooth(at, 1e-5, 0.0)
    assert series.departures(at, straight + 5 * 1e-4 * step, np.full(11, 1e-6), 5.0) == []
    assert series.departures(at, straight + 5 * 2e-3 * step, np.full(11, 5 * 1e-3), 5.0) == []
    assert series.departures(at, straight + 5 * 2e-3 * step, np.full(11, 5e-5), 5.0) != []


def test_scans_at_the_same_temperature_are_one_point() -> None:
    at = np.repeat(np.linspace(300, 50, 6), 2)
    values = smooth(at, 1e-5, 0.0) + np.where(at < 160, 0.01, 0.0)
    found = series.departures(at, values, np.full(12, 5e-5), 5.0)
    assert [(d.warmer, d.colder) for d in found] == [(200.0, 150.0)]
    # Two scans that disagree by far more than their errors say nothing.
    values[at == 150] += [0.05, -0.05]
    assert not [d for d in series.departures(at, values, np.full(12, 5e-5), 5.0) if d.colder == 150]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_temperatures_have_no_course(n: int) -> None:
    at = np.linspace(300, 100, n)
    assert series.departures(at, 5 + at, np.full(n, 1e-5), 5.0) == []
