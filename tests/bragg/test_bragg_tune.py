"""The tuner of the peak search: its score, its noise, and what it finds in simulated scans.

``python -m benchmarks.tune_truth`` has more scenes.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hklflow.base.errors import HklflowError
from hklflow.bragg import tune
from hklflow.geometry import lattice
from hklflow.orientation.lattice_search import is_indexed
from tests.truth.defaults import index_peaks, peak_params
from tests.truth.tuning import STARTS, Scene, scene

pytestmark = pytest.mark.slow

UB = lattice.b_matrix([6.0, 7.0, 8.0, 90.0, 95.0, 90.0])


def trial(found: list[float], indexed: list[float], tolerance: float = 0.2) -> tune.Trial:
    return tune.Trial(peak_params(), np.array(found, float), np.array(indexed, float), tolerance)


# --------------------------------------------------------------------- score and its noise


@pytest.mark.parametrize("n_real", [0, 300, 3000])
@pytest.mark.parametrize("n_random", [0, 5000])
def test_spots_that_are_indexed_by_chance_do_not_count(n_real: int, n_random: int) -> None:
    rng = np.random.default_rng(n_real + n_random)
    real = rng.integers(-8, 9, (n_real, 3)) + rng.normal(0, 0.02, (n_real, 3))
    g = np.concatenate([real, rng.uniform(-8, 8, (n_random, 3))]) @ UB.T
    blocks = np.array_split(rng.permutation(g), 8)
    found = trial([len(b) for b in blocks], [is_indexed(UB, b, 0.2).sum() for b in blocks])
    chance = 0.4**3
    error = np.sqrt(n_random * chance * (1 - chance)) / (1 - chance)
    assert abs(found.beyond_chance - n_real) <= 4 * error + 1e-9
    # Without the discount 5000 random spots would score 20.
    expected = n_real**2 / max(n_real + n_random, 1)
    slack = 4 * error * (2 * n_real + 4 * error) / max(n_real + n_random, 1)
    assert abs(found.score - expected) <= slack + 1e-9


def test_the_score_is_indexed_spots_times_the_fraction() -> None:
    assert trial([50, 50], [40, 40], 0.005).score == pytest.approx(80 * 0.8, rel=1e-4)
    assert trial([50, 50], [50, 50]).score == pytest.approx(100)
    assert trial([0, 0], [0, 0]).score == 0


def test_the_noise_of_a_difference_is_its_scatter() -> None:
    rng = np.random.default_rng(5)
    gains, sigmas = [], []
    for _ in range(1000):
        common = rng.poisson(60, 5)
        false, more = rng.poisson(15, 5), rng.poisson(6, 5)
        shallow = trial(list(common + 2), list(common), 0.05)
        deep = trial(list(common + false + more), list(common + more), 0.05)
        gain, sigma = deep.better_than(shallow)
        gains.append(gain)
        sigmas.append(sigma)
    assert 0.9 < np.sqrt(np.mean(np.square(sigmas))) / np.std(gains) < 1.1
    same = trial([5, 6, 7], [4, 4, 4])
    assert same.better_than(same) == (0.0, 0.0)


def test_a_gain_within_the_noise_is_not_worth_it() -> None:
    now = tune.Trial(peak_params(), np.full(6, 50.0), np.full(6, 45.0), 0.15)
    indexed = np.array([47.0, 43.0, 49.0, 42.0, 48.0, 44.0])
    other = tune.Trial(peak_params(n_sigma=5.0), np.full(6, 50.0), indexed, 0.15)
    assert not tune.Tuning(now, other, (), 2, UB).worth_it
    # Beyond two standard deviations is the best of many trials by chance.
    lucky = tune.Trial(peak_params(n_sigma=5.0), np.full(6, 50.0), indexed + 2, 0.15)
    assert not tune.Tuning(now, lucky, (), 2, UB).worth_it
    more = np.minimum(indexed + 5, 50.0)
    better = tune.Trial(peak_params(n_sigma=5.0), np.full(6, 50.0), more, 0.15)
    found = tune.Tuning(now, better, (), 2, UB)
    assert found.worth_it
    assert found.changed == {"n_sigma": 5.0}
    assert not tune.Tuning(now, now, (), 2, UB).worth_it


# --------------------------------------------------------------------------------- blocks


@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=4),
    st.integers(1, 60),
    st.one_of(st.none(), st.integers(1, 4)),
)
def test_blocks_are_within_the_rotations_and_apart(
    n_frames: list[int], max_frames: int, every: int | None
) -> None:
    enough = sum(n // max(50, 2 * max_frames) for n in n_frames) >= 4 * (every or 1)
    try:
        blocks = tune.spread(n_frames, max_frames, every)
    except HklflowError:
        assert not enough
        return
    assert len(blocks) >= 4
    assert every is not None or len(blocks) < 16
    assert len({last - first for _, first, last in blocks}) == 1
    for rotation, first, last in blocks:
        assert 0 <= first < last <= n_frames[rotation]
    for (a, _, end), (b, begin, _) in pairwise(blocks):
        assert b > a or begin >= end


def test_too_few_frames_are_refused() -> None:
    with pytest.raises(HklflowError, match="39 frames are too few"):
        tune.spread([39], 25, None)
    with pytest.raises(HklflowError, match="give --every from 1 to 2"):
        tune.spread([400], 25, 3)
    assert len(tune.spread([400], 25, 2)) == 4


# ------------------------------------------------------------------------ simulated scans


@pytest.fixture(scope="module")
def made() -> Scene:
    return Scene.of(scene(1, n_frames=120))


@pytest.fixture(scope="module")
def best(made: Scene) -> tune.Tuning:
    """From a good start, the orientation known."""
    return tune.tune(made.blocks(), peak_params(), made.simulation.ub, unset=peak_params())


def test_what_is_found_is_what_there_is(made: Scene, best: tune.Tuning) -> None:
    recall, precision, number = made.recall_and_precision(best.best.params)
    assert number > 80
    assert recall >= 0.98
    assert precision >= 0.98
    assert best.best.score >= best.start.score
    told = {name for name, sweep in ((s.name, s) for s in best.sweeps) if len(sweep.trials) > 1}
    assert told == set(tune.LADDERS)


def test_it_is_found_again_from_a_bad_start(made: Scene, best: tune.Tuning) -> None:
    start = peak_params(**STARTS["n_sigma too low"])
    found = tune.tune(made.blocks(), start, lambda g: index_peaks(g).ub, unset=peak_params())
    assert found.worth_it
    assert found.start.score < 0.9 * best.best.score
    assert found.best.score > 0.98 * best.best.score
    recall, precision, _ = made.recall_and_precision(found.best.params)
    assert recall >= 0.98
    assert precision >= 0.98


def test_without_a_lattice_there_is_no_score(made: Scene) -> None:
    def none(g: np.ndarray) -> np.ndarray:
        raise HklflowError("these are no peaks of a crystal")

    with pytest.raises(HklflowError, match=r"no score: these are no peaks of a crystal"):
        tune.tune(made.blocks(), peak_params(), none, unset=peak_params())
