"""How far indexed peaks are from their places beyond their own errors."""

import numpy as np
import pytest

from hklflow.orientation.misfit import _excess

rng = np.random.default_rng(7)
N = 400
# Of spots near the rotation axis the frame is known to some tens only.
SIGMA = np.where(np.arange(N) % 50 == 0, 30.0, rng.uniform(0.1, 0.5, N))


@pytest.mark.parametrize("excess", [0.5, 2.0, 10.0])
def test_an_excess_is_found_beside_peaks_that_know_nothing(excess: float) -> None:
    found = [_excess(rng.normal(0, np.hypot(SIGMA, excess)) ** 2, SIGMA**2) for _ in range(50)]
    assert np.sqrt(np.mean(found)) == pytest.approx(excess, rel=0.1)


def test_no_excess_is_found_where_there_is_none() -> None:
    """The mean of the differences is beyond a frame in every third of these."""
    squares = [rng.normal(0, SIGMA) ** 2 for _ in range(200)]
    assert max(_excess(x, SIGMA**2) for x in squares) < 0.15**2
    assert np.mean([np.mean(x - SIGMA**2) > 1 for x in squares]) > 0.2


def test_exact_peaks_have_none() -> None:
    assert _excess(np.zeros(3), np.full(3, 1e-4)) == 0
