"""Lost frames and copies among frames of counted photons."""

import numpy as np
import pytest

from hklflow.images.frame_defects import copies, lost, shared

N = 50


@pytest.fixture
def rings() -> np.ndarray:
    """Counts (frames, rings) of a scan in which nothing is wrong."""
    return np.random.default_rng(3).poisson(40.0, (N, 20))


def test_a_good_scan_has_no_defects(rings: np.ndarray) -> None:
    assert lost(rings.sum(axis=1), np.ones(N)).size == 0
    assert copies(rings.sum(axis=1), rings) == []


def test_lost_frames_are_those_that_the_beam_does_not_explain(rings: np.ndarray) -> None:
    rings[[7, 30, 31]] = 0
    beam = np.full(N, 1e6)
    beam[30] = 10.0  # the beam was away
    assert lost(rings.sum(axis=1), beam).tolist() == [7, 31]


def test_few_counts_are_no_evidence() -> None:
    counts = np.random.default_rng(3).poisson(0.2, (N, 20))
    assert (counts.sum(axis=1) == 0).any()
    assert lost(counts.sum(axis=1), np.ones(N)).size == 0
    assert copies(counts.sum(axis=1), np.zeros((N, 1))) == []


def test_copies_are_found_wherever_they_are(rings: np.ndarray) -> None:
    rings[[12, 40]] = rings[3]
    # The same sum alone is no copy.
    rings[20] = rings[21][::-1]
    assert copies(rings.sum(axis=1), rings) == [(3, 12), (3, 40)]


@pytest.mark.parametrize("mean", [3.0, 300.0, 3e4])
def test_independent_rotations_share_no_frame(mean: float) -> None:
    """The same crystal, the same angles, other photons; ends of the scans are without beam."""
    level = mean * np.exp(-np.arange(40) / 20) * np.ones((200, 1))
    level[:10] = level[-10:] = 0
    rng = np.random.default_rng(5)
    a, b = (rng.poisson(level) for _ in range(2))
    assert shared((a.sum(axis=1), a), (b.sum(axis=1), b)) == []


@pytest.mark.parametrize("same_rings", [True, False])
@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (np.s_[:], [(i, i) for i in range(60)]),
        (np.s_[20:], [(i, i - 20) for i in range(20, 60)]),
        (np.s_[::-1], [(i, 59 - i) for i in reversed(range(60))]),
        (np.s_[39:4:-1], [(i, 39 - i) for i in range(5, 40)]),
    ],
)
def test_the_same_measurement_is_found(
    same_rings: bool, other: slice, expected: list[tuple[int, int]]
) -> None:
    """Shifted, backwards; also where another geometry gives other rings."""
    counts = np.random.default_rng(6).poisson(50.0, (60, 30))
    copy = counts[other] if same_rings else np.roll(counts[other], 1, axis=1)
    found = shared((counts.sum(axis=1), counts), (copy.sum(axis=1), copy))
    assert found == sorted(expected)


def test_one_frame_is_enough_if_its_rings_are_the_same() -> None:
    rng = np.random.default_rng(7)
    a, b = rng.poisson(50.0, (2, 60, 30))
    b[17] = a[5]
    assert shared((a.sum(axis=1), a), (b.sum(axis=1), b)) == [(5, 17)]
