"""Kriging of patterns with an inversion centre, by parts, against the whole."""

import itertools

import numpy as np
import pytest

from hklflow.volumes import kriging, parity


def pattern() -> tuple[np.ndarray, np.ndarray]:
    """A ball of voxels in an oblique lattice, and the shell around it."""
    edges = np.array([[0.05, 0.01, 0.0], [0.0, 0.06, 0.005], [0.01, 0.0, 0.055]])
    voxels = np.array(list(itertools.product(range(-4, 5), repeat=3))) @ edges
    length = np.linalg.norm(voxels, axis=1)
    return voxels[length < 0.12] + 0.7, voxels[(length >= 0.12) & (length < 0.2)] + 0.7


@pytest.mark.parametrize("drift", [0, 1])
@pytest.mark.parametrize("covariance", ["gaussian", "matern"])
def test_parts_give_what_the_whole_gives(
    monkeypatch: pytest.MonkeyPatch, covariance: str, drift: int
) -> None:
    hole, support = pattern()
    rng = np.random.default_rng(0)
    values = 5 + rng.normal(size=(20, len(support))) + 30 * support[:, 0]
    sigma = rng.uniform(0.5, 1.5, values.shape)
    # Holes that lack some of the support are filled in another way.
    values[15:, :40:7] = np.nan
    parts = kriging.Kriging(hole, support, covariance, drift).fill(values, sigma)
    assert len(parity.parts(hole - hole.mean(axis=0), support - hole.mean(axis=0))) == 2
    monkeypatch.setattr(parity, "_images", lambda points: None)
    whole = kriging.Kriging(hole, support, covariance, drift).fill(values, sigma)
    np.testing.assert_allclose(parts.values, whole.values, rtol=1e-7)
    np.testing.assert_allclose(parts.errors, whole.errors, rtol=1e-6)


def test_a_support_without_images_is_kept_whole() -> None:
    hole, support = pattern()
    middle = hole.mean(axis=0)
    assert len(parity.parts(hole - middle, support[1:] - middle)) == 1


def test_blocks_are_those_of_the_matrix() -> None:
    points = np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 0], [-1, 0, 0], [0, -2, 0]])
    matrix = np.exp(-np.linalg.norm(points[:, None] - points, axis=2))
    blocks = []
    for (part,) in parity.parts(points):
        combinations = part.expanded(np.eye(len(part.own)), len(points))
        made = parity.distances(points, part, points, part)
        block = parity.block(part, part, *(np.exp(-d) for d in made))
        np.testing.assert_allclose(block, combinations @ matrix @ combinations.T, atol=1e-15)
        np.testing.assert_allclose(part.combined(points), combinations @ points)
        blocks.append(combinations)
    basis = np.concatenate(blocks)
    np.testing.assert_allclose(basis @ basis.T, np.eye(5), atol=1e-15)
    assert [len(b) for b in blocks] == [3, 2]
