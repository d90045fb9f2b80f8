"""The rule of the loop alone, on sequences that are made up."""

import itertools

import numpy as np
import pytest

from hklflow.calibration.converge import Cycle, converge


def cycle(median, centre=0.0, distance=0.2):
    """A cycle with rings of FWHM 1 and a distance known to 1 µm."""
    return Cycle((centre, 0.0), distance, 1e-6, median, 1.0, 5, 100)


def played(cycles):
    """A step that plays cycles one after the other; the state is how many were played."""
    return lambda state: (state + 1, cycles[min(state, len(cycles) - 1)])


def test_settles_when_nothing_moves_and_the_rings_fit():
    cycles = [cycle(0.4, 3.0, 0.201), cycle(0.1, 0.5), cycle(0.02, 0.011), cycle(0.02, 0.001)]
    end = converge(played(cycles), 0)
    assert (end.reason, end.state, end.cycle) == ("settled", 4, cycles[3])
    assert end.history == cycles


def test_a_moving_distance_is_not_settled():
    cycles = [cycle(0.04, distance=0.2 + 5e-6 * n) for n in range(20)]
    end = converge(played(cycles), 0, max_cycles=6)
    assert (end.reason, len(end.history), end.state) == ("cap", 6, 6)
    # The same steps are less than one σ of a distance that is known less well.
    wide = [Cycle((0.0, 0.0), c.distance, 1e-5, 0.04, 1.0, 5, 100) for c in cycles]
    assert converge(played(wide), 0).reason == "settled"


def test_divergence_keeps_the_best():
    medians = [0.3, 0.2, 0.6, 1.2, 2.4]
    end = converge(played([cycle(m, 5.0 * i) for i, m in enumerate(medians)]), 0)
    assert (end.reason, end.state, end.cycle.median_off) == ("median rose", 2, 0.2)
    # What was thrown away is on record.
    assert [c.median_off for c in end.history] == [0.3, 0.2, 0.6]


def test_divergence_from_the_first_step():
    end = converge(played([cycle(0.1), cycle(np.nan, 4.0)]), 0)
    assert (end.reason, end.state) == ("median rose", 1)


def test_oscillation_stops():
    cycles = [cycle(m, c) for m, c in itertools.islice(itertools.cycle([(0.2, 1), (0.3, -1)]), 40)]
    end = converge(played(cycles), 0)
    assert (end.reason, end.state, len(end.history)) == ("median rose", 1, 2)
    # Without a rise an oscillation runs into the cap and is no success.
    flat = [cycle(0.2, (-1.0) ** n) for n in range(40)]
    end = converge(played(flat), 0, max_cycles=7)
    assert (end.reason, len(end.history)) == ("cap", 7)


@pytest.mark.parametrize("jitter", [1e-6, -1e-6])
def test_rings_that_scatter_stand_still(jitter):
    """Nothing moves, but the median stays above 0.05 FWHM: no rise, no cap."""
    end = converge(played([cycle(0.3), cycle(0.1), cycle(0.1 + jitter)]), 0)
    assert end.reason == "still"
    assert end.state == (2 if jitter > 0 else 3)


def test_a_last_digit_is_no_rise():
    end = converge(played([cycle(0.01), cycle(0.01 + 1e-12)]), 0)
    assert (end.reason, end.state) == ("settled", 1)


@pytest.mark.parametrize("factor", [0.5, -0.7, 0.0])
def test_contraction(factor):
    """x -> factor · x settles at 0, whichever side it comes from."""

    def step(x):
        after = factor * x
        return after, cycle(abs(after) / 10, after)

    end = converge(step, 3.0, max_cycles=30)
    assert end.reason == "settled"
    assert abs(end.state) < 0.05


@pytest.mark.parametrize("factor", [1.3, -1.1])
def test_expansion(factor):
    def step(x):
        after = factor * x
        return after, cycle(abs(after) / 10, after)

    end = converge(step, 1.0)
    assert (end.reason, end.state) == ("median rose", factor)
