"""Lost frames and copies among frames of counted photons."""

import numpy as np
import pytest

from hklflow.core.frame_defects import copies, lost

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
