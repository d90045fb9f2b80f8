"""Resolution from reflections whose width and place in the voxels are known."""

import numpy as np
import pytest
from scipy.special import ndtr

from hklflow.geometry.grid import Grid
from hklflow.series.resolution import measured, moments

GRID = Grid.symmetric([2.5, 2.5, 2.5], [0.05, 0.1, 0.1])
METRIC = np.eye(3)


def volume(sigma: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """S (l, k, h) of a Gaussian at each integer hkl plus ``centre``, averaged over the voxels."""
    lines = []
    for i in range(3):
        axis, step = GRID.axis(i), GRID.step[i]
        edges = np.append(axis - step / 2, axis[-1] + step / 2)
        nodes = np.arange(-2, 3) + centre[i]
        lines.append(np.diff(ndtr((edges[:, None] - nodes) / sigma[i]), axis=0).sum(axis=1) / step)
    return 1.0 + np.einsum("h,k,l->lkh", *lines)


NODES = [np.array(x, float) - 2 for x in np.ndindex(5, 5, 5) if max(np.abs(np.array(x) - 2)) == 1]


@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (0.004, -0.01, 0.03), (0.02, 0.03, -0.045)])
@pytest.mark.parametrize("voxels", [0.25, 0.3, 0.4, 0.6, 1.0])
def test_the_width_is_that_of_the_gaussian_however_narrow(
    voxels: float, centre: tuple[float, float, float]
) -> None:
    """In voxels. Without knowing the place in the voxel, 0.3 voxels would be measured as 0.1."""
    sigma = voxels * GRID.step * np.array([1.0, 0.8, 0.9])
    data = volume(sigma, np.array(centre))
    error = np.full(data.shape, 1e-6)
    found = measured(lambda part: (data[part], error[part]), GRID, METRIC, NODES, 0.45, len(NODES))
    assert found is not None
    assert found.reflections == len(NODES)
    np.testing.assert_allclose(np.sqrt(np.diag(found.covariance)), sigma, rtol=0.03)
    off = found.covariance - np.diag(np.diag(found.covariance))
    assert np.abs(off).max() < 0.01 * np.diag(found.covariance).min()


@pytest.mark.parametrize("voxels", [0.35, 0.5, 1.0])
def test_an_oblique_width_is_measured(voxels: float) -> None:
    """Correlation of h and k of 0.6, by a sum over points of the voxels; narrow ones to 0.07."""
    shape = np.array([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 1.0]])
    truth = voxels**2 * shape * np.outer(GRID.step, GRID.step)
    inverse = np.linalg.inv(truth)
    fine = (np.arange(11) - 5) / 11
    axes = [
        (GRID.axis(i)[:, None] + fine * GRID.step[i]).ravel()[
            np.abs((GRID.axis(i)[:, None] + fine * GRID.step[i]).ravel() - 1) < 0.45
        ]
        for i in range(3)
    ]
    away = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1) - 1
    values = np.exp(-0.5 * np.einsum("...i,ij,...j->...", away, inverse, away))
    edges = [
        np.append(GRID.axis(i) - GRID.step[i] / 2, GRID.axis(i)[-1] + GRID.step[i] / 2)
        for i in range(3)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    data = np.histogramdd(points, edges, weights=values.ravel())[0].transpose(2, 1, 0)
    error = np.full(data.shape, 1e-9)
    found = moments(lambda part: (data[part], error[part]), GRID, np.ones(3), np.full(3, 0.45))
    assert found is not None
    np.testing.assert_allclose(np.diag(found), np.diag(truth), rtol=0.05)
    root = np.sqrt(np.diag(found))
    assert found[0, 1] / (root[0] * root[1]) == pytest.approx(0.6, abs=0.07)
