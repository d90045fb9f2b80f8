"""Gauge part of the absorption of unknown shapes against rays of another program."""

import numpy as np
import pytest
from tests.truth.quantitative_catalogue import world
from tests.truth.quantitative_scans import body_of, rotation_of
from tests.truth.quantitative_shapes import admitted, gauge_of, observed, shells

from hklflow.geometry.symmetry import space_group
from hklflow.transform import shape_family
from hklflow.transform.shape_family import Member


@pytest.mark.parametrize("name", ["sphere", "furnace"])
def test_the_gauge_part_of_one_shape_is_the_mean_over_shells(name: str) -> None:
    """A family of one shape: no uncertainty, and the truth of other rays as a function of |Q|."""
    w = world(name, 11, (60, 64))
    group = space_group(w.crystal.space_group.partition(":")[0])
    rotations = {f"r{i}": rotation_of(w, i) for i in range(len(w.scans))}
    family = [Member(body_of(w), 1.0)] * 2
    mu = dict.fromkeys(rotations, w.absorber.mu)
    found = shape_family.gauge(family, mu, None, rotations, w.UB, group.laue_operations, 1)
    np.testing.assert_allclose(found.covariance, 0, atol=1e-20)
    assert found.mean @ found.weight == pytest.approx(0, abs=2e-3)
    q, weight, true = shells(observed(w))
    size = np.sqrt(np.average(true**2, weights=weight))
    assert size > 3e-3
    off = np.interp(q, found.q, found.mean) - true
    assert np.sqrt(np.average(off**2, weights=weight)) < 0.07 * size
    if name == "sphere":
        assert found.by_direction.max() < 3e-3
        assert found.visible < 1e-3
    else:
        assert found.visible > 0.05


def test_extents_stay_within_their_limits_and_reach_them() -> None:
    made = shape_family.members((0.1, 0.5), 0.02)
    ratios = []
    for member in made:
        turns = np.linalg.eigh(member.body.spread())[1].T
        extents = [member.body.reach(axis) + member.body.reach(-axis) for axis in turns]
        assert min(extents) > 0.1 * 0.999
        # The main axes of a body of equal extents are any, also the diagonal of a cube.
        assert max(extents) < 0.5 * np.sqrt(3)
        ratios.append(max(extents) / min(extents))
    assert min(ratios) < 1.5
    assert sum(ratio > 4 for ratio in ratios) > 40
    assert np.std([member.mu for member in made]) == pytest.approx(0.02, rel=0.3)
    assert [member.mu for member in shape_family.members((0.1, 0.5), 0.02)] == [
        member.mu for member in made
    ]


@pytest.mark.parametrize("name", [pytest.param("capillary", marks=pytest.mark.slow), "organic"])
def test_the_truth_is_within_the_uncertainty(name: str) -> None:
    w = world(name, 11, (60, 64))
    gauge = gauge_of(w)
    q, weight, true = shells(observed(w))
    off = true - np.interp(q, gauge.q, gauge.mean)
    sigma = np.interp(q, gauge.q, gauge.sigma)
    assert np.average(off**2, weights=weight) < np.average(sigma**2, weights=weight)
    assert admitted(w)[0] < admitted(w)[1]
