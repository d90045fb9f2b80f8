"""Thermal expansion and spontaneous strain, for cells of oscillators and of a law of transition."""

from functools import partial

import numpy as np
import pytest

from hklflow.base.axis import Axis
from hklflow.bragg import expansion
from hklflow.bragg.order_parameter import Interval
from hklflow.geometry import lattice
from hklflow.quality import expansion_words

T = np.linspace(20.0, 300.0, 15)
SIGMA = 1e-5
TRICLINIC = np.array([6.1, 7.3, 9.4, 82.0, 97.0, 105.0])
TETRAGONAL = np.array([6.1, 6.1, 9.4, 90.0, 90.0, 90.0])


def oscillators(temperature: np.ndarray, seed: int) -> np.ndarray:
    """Strain of three Einstein oscillators with Grüneisen parameters of either sign."""
    rng = np.random.default_rng(seed)
    theta, size = rng.uniform(40, 600, 3), rng.normal(5e-6, 4e-6, 3)
    return np.asarray(size @ (theta[:, None] / np.expm1(theta[:, None] / temperature)))


def tetragonal(seed: int, onset: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Cells at T with noise, and their covariances; c has an additional strain."""
    rng = np.random.default_rng(1000 + seed)
    along_a, along_c = oscillators(T, 2 * seed), oscillators(T, 2 * seed + 1) + onset
    cells = np.tile(TETRAGONAL, (len(T), 1))
    cells[:, :2] *= (1 + along_a + rng.normal(0, SIGMA, len(T)))[:, None]
    cells[:, 2] *= 1 + along_c + rng.normal(0, SIGMA, len(T))
    covariance = np.zeros((6, 6))
    covariance[:2, :2] = (SIGMA * TETRAGONAL[0]) ** 2
    covariance[2, 2] = (SIGMA * TETRAGONAL[2]) ** 2
    return cells, np.tile(covariance, (len(T), 1, 1))


def test_the_energy_of_debye_is_that_of_its_limits() -> None:
    theta = 300.0
    # T³ law: 3 · π⁴/15 · T⁴/θ³; far above θ the energy grows as T, less 3θ/8.
    assert expansion.debye(5.0, theta) == pytest.approx(np.pi**4 / 5 * 5.0**4 / theta**3, rel=1e-6)
    assert expansion.debye(3e4, theta) == pytest.approx(3e4 - 3 * theta / 8, rel=1e-5)


@pytest.mark.slow
def test_expansion_of_oscillators_is_within_its_errors_and_no_transition_is_claimed() -> None:
    pulls = []
    for seed in range(4):
        cells, covariances = tetragonal(seed)
        found = expansion.fit(T, cells, covariances, cells[-1])
        assert found is not None
        assert found.t_c is None
        for number, axis in ((2 * seed, 0), (2 * seed + 1, 2)):
            truth = (oscillators(T + 1, number) - oscillators(T - 1, number)) / 2
            pulls.append((found.alpha[1:-1, axis] - truth[1:-1]) / found.alpha_sigma[1:-1, axis])
        assert found.alpha[:, 1] == pytest.approx(found.alpha[:, 0])
    assert np.sqrt(np.mean(np.square(pulls))) < 1.5
    assert np.abs(pulls).max() < 5


@pytest.mark.parametrize("beta", [0.25, 0.33, 0.5])
def test_a_strain_below_a_transition_has_its_temperature_and_size(beta: float) -> None:
    t_c, size = 168.0, 1.5e-3
    square = np.clip(1 - T / t_c, 0, None) ** (2 * beta)
    cells, covariances = tetragonal(7, size * square)
    found = expansion.fit(T, cells, covariances, cells[-1])
    assert found is not None
    assert found.t_c is not None
    assert found.t_c.outer[0] - 1 < t_c < found.t_c.outer[1] + 1
    assert found.t_c.sigma < 6
    sigma = np.sqrt(np.diag(found.strain_covariance))
    assert found.strain[2] == pytest.approx(size * square[0], abs=4 * sigma[2])
    assert sigma[2] < 0.3 * size
    assert abs(found.strain[0]) < 4 * sigma[0]


@pytest.mark.parametrize("number", [0, 6])
def test_one_bad_scan_is_no_transition(number: int) -> None:
    cells, covariances = tetragonal(5)
    cells[number, :3] *= 1 + 25 * SIGMA
    found = expansion.fit(T, cells, covariances, cells[-1])
    assert found is not None
    assert found.t_c is None
    truth = np.subtract(*oscillators(T[[-1, 0]], 10)) / (T[-1] - T[0])
    assert found.mean[0] == pytest.approx(truth, abs=4 * np.sqrt(found.mean_covariance[0, 0]))


def test_a_jump_just_above_a_scan_is_found() -> None:
    # A law that is steep at T_c has a narrow maximum of the likelihood just above a scan.
    t_c = float(T[7]) + 0.3
    below = np.clip(1 - T / t_c, 0, None)
    cells, covariances = tetragonal(2, 3e-3 * np.where(t_c > T, 0.6 + 0.4 * np.sqrt(below), 0))
    found = expansion.fit(T, cells, covariances, cells[-1])
    assert found is not None
    assert found.t_c is not None
    assert abs(found.t_c.value - t_c) < 3 * found.t_c.sigma
    assert found.t_c.sigma < 5


@pytest.mark.slow
def test_a_triclinic_cell_that_is_strained_has_this_strain() -> None:
    rng = np.random.default_rng(3)
    strain = rng.normal(0, 1e-5, (3, 3))
    strain = (strain + strain.T) / 2
    axes = 2 * np.pi * np.linalg.inv(lattice.b_matrix(TRICLINIC)).T
    cells = []
    for t in T:
        moved = (np.eye(3) + strain * 80 / np.expm1(80 / t)) @ axes
        cells.append(lattice.cell_from_metric(moved.T @ moved))
    covariance = np.diag([1e-5, 1e-5, 1e-5, 1e-4, 1e-4, 1e-4]) ** 2
    found = expansion.fit(T, cells, np.tile(covariance, (len(T), 1, 1)), TRICLINIC)
    assert found is not None
    strain *= np.subtract(*(80 / np.expm1(80 / T[[-1, 0]]))) / (T[-1] - T[0])
    expected = [strain[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
    errors = np.sqrt(np.diag(found.mean_covariance))
    assert np.abs(found.mean - expected) == pytest.approx(np.zeros(6), abs=2e-7)
    assert errors.max() < 5e-7
    (text,) = expansion_words.sentences("300K", found, TRICLINIC.tolist())
    first = float(text.split(" expands by ")[1].split(" ± ")[0].replace("−", "-"))
    assert first == pytest.approx(np.linalg.eigvalsh(strain)[0] * 1e6, abs=0.5)
    assert "along principal axis 1" in text


def test_a_fixed_cell_or_few_temperatures_give_nothing() -> None:
    cells, covariances = tetragonal(0)
    assert expansion.fit(T, cells, 0 * covariances, cells[-1]) is None
    few = slice(0, expansion.FEWEST - 1)
    assert expansion.fit(T[few], cells[few], covariances[few], cells[0]) is None


def test_sentences() -> None:
    square = np.where(T < 168, 0.6 + 0.4 * np.sqrt(np.clip(1 - T / 168, 0, None)), 0.0)
    cells, covariances = tetragonal(1, 3e-3 * square)
    found = expansion.fit(T, cells, covariances, cells[-1])
    assert found is not None
    mean, onset = expansion_words.sentences("300K", found, TETRAGONAL.tolist())
    assert mean.startswith("the cell of parent 300K expands by ")
    assert " along a and b, " in mean
    assert mean.endswith(" along c (in 10⁻⁶/K, mean between 20 and 300 K)")
    assert onset.startswith("at T_c = ")
    assert "spontaneous strain at 20 K: " in onset
    interval = partial(Interval, inner=(0, 0), outer=(0, 0))
    agree = expansion_words.agreement(interval(168, 2.0), "(1/2, 0, 0)", interval(170, 1.0))
    assert agree.endswith(" agree")
    differ = expansion_words.agreement(interval(168, 2.0), "(1/2, 0, 0)", interval(190, 1.0))
    assert "differ by 9.8 σ" in differ


PRESSURE = Axis("pressure", "p", "GPa")


def compressed(seed: int, onset: float | None = None, above: bool = True) -> tuple[np.ndarray, ...]:
    """Pressures and cells of Murnaghan's law with noise, and the linear compressibility of a.

    c has an additional strain of 0.2 % (root of the distance) on one side of ``onset``.
    """
    rng = np.random.default_rng([9, seed])
    p = np.linspace(0.0, 8.0, 15)
    strains = []
    for _ in range(2):
        modulus, slope = rng.uniform(150, 500), rng.uniform(6, 20)
        strains.append(-np.log(1 + slope * p / modulus) / slope)
    if onset is not None:
        distance = np.clip(p - onset if above else onset - p, 0, None)
        strains[1] = strains[1] + 2e-3 * np.sqrt(distance)
    cells = np.tile(TETRAGONAL, (len(p), 1))
    cells[:, :2] *= np.exp(strains[0] + rng.normal(0, SIGMA, len(p)))[:, None]
    cells[:, 2] *= np.exp(strains[1] + rng.normal(0, SIGMA, len(p)))
    covariance = np.zeros((6, 6))
    covariance[:2, :2] = (SIGMA * TETRAGONAL[0]) ** 2
    covariance[2, 2] = (SIGMA * TETRAGONAL[2]) ** 2
    mean = 0.5 * (np.exp(2 * strains[0][-1]) - np.exp(2 * strains[0][0])) / (p[-1] - p[0])
    return p, cells, np.tile(covariance, (len(p), 1, 1)), mean


def test_under_pressure_a_cell_is_compressed_and_no_transition_is_claimed() -> None:
    for seed in range(4):
        p, cells, covariances, mean = compressed(seed)
        found = expansion.fit(p, cells, covariances, cells[0], PRESSURE)
        assert found is not None
        assert found.t_c is None
        assert found.mean[0] == pytest.approx(mean, abs=4 * np.sqrt(found.mean_covariance[0, 0]))
        lines = expansion_words.sentences("0GPa", found, TETRAGONAL, PRESSURE)
        text = " ".join(lines)
        assert lines[0].startswith("the linear compressibility of parent 0GPa is ")
        assert "10⁻³/GPa, mean between 0 and 8 GPa" in lines[0]
        assert "no transition is claimed" in text
        assert "expan" not in text
        assert "K" not in text


@pytest.mark.parametrize("above", [True, False])
def test_a_strain_on_either_side_of_a_pressure_is_found(above: bool) -> None:
    p, cells, covariances, _ = compressed(3, 4.3, above)
    found = expansion.fit(p, cells, covariances, cells[0], PRESSURE)
    assert found is not None
    assert found.t_c is not None
    assert abs(found.t_c.value - 4.3) < 4 * found.t_c.sigma
    assert found.t_c.sigma < 0.3
    assert np.isnan(found.strain).all()
    text = expansion_words.sentences("0GPa", found, TETRAGONAL, PRESSURE)[1]
    assert text.startswith("at p_c = 4.")
    assert text.endswith("GPa the cell departs from a smooth change")
