"""Gradient and Fisher matrix of the fit against a likelihood written with scipy."""

import numpy as np
import pytest
from scipy.special import erf

from hklflow.peaks.strips import N_PARAMETERS, STRIP, normal_equations

P = np.array([400.0, 12.3, 41.8, 75.6, np.log(1.4), np.log(1.1), np.log(2.0), 3.0, 0.1, -0.05])
ORIGIN = np.array([8, 36, 70])


def expected(p, shape, level, extra, middle):
    parts = []
    for a, n in enumerate(shape):
        edges = ORIGIN[a] + np.arange(n + 1)
        parts.append(np.diff(erf((edges - p[1 + a]) / (np.sqrt(2) * np.exp(p[4 + a])))) / 2)
    y, x = (ORIGIN[a] + np.arange(shape[a]) + 0.5 - middle[a] for a in (1, 2))
    flat = p[7] + p[8] * y[:, None] + p[9] * x
    flat = np.maximum(level[:, None, None] * flat, 1e-3)
    return p[0] * np.einsum("i,j,k->ijk", *parts) + flat + extra


@pytest.mark.parametrize(("columns", "slope"), [(13, -0.05), (8, -0.05), (19, -0.5)])
def test_gradient_and_matrix_are_those_of_the_likelihood(columns, slope):
    """Columns that fill no strip, unused voxels, and a background that would fall below 0."""
    rng = np.random.default_rng(columns)
    p = P.copy()
    p[9] = slope
    shape = (9, 11, columns)
    padded = (9, 11, -(-columns // STRIP) * STRIP)
    middle = ORIGIN + np.array(shape) / 2
    level = rng.uniform(0.8, 1.2, shape[0])
    extra, use, counts = (np.zeros(padded) for _ in range(3))
    extra[:] = rng.uniform(0, 5, padded)
    use[..., :columns] = rng.random(shape) < 0.9
    truth = expected(p, shape, level, extra[..., :columns], middle)
    counts[..., :columns] = rng.poisson(truth)

    def mu(q):
        return expected(q, shape, level, extra[..., :columns], middle)

    used, found = use[..., :columns], counts[..., :columns]

    def minus_log(q):
        return (used * (mu(q) - found * np.log(mu(q)))).sum()

    steps = 1e-5 * np.eye(N_PARAMETERS)
    slopes = np.array([(mu(p + s) - mu(p - s)) / 2e-5 for s in steps])
    # Where the background stands at its least the fit goes on as if it followed its parameters.
    free = truth - extra[..., :columns] > 1.5e-3
    gradient, fisher = np.zeros(N_PARAMETERS), np.zeros((N_PARAMETERS, N_PARAMETERS))
    value, chi2 = normal_equations(counts, use, extra, level, ORIGIN, p, middle, gradient, fisher)
    assert value == pytest.approx(minus_log(p), rel=1e-11)
    assert chi2 == pytest.approx((used * (found - truth) ** 2 / truth).sum(), rel=1e-11)
    n = 7 if slope < -0.1 else N_PARAMETERS
    if n == N_PARAMETERS:
        assert free.all()
    scale = np.sqrt(np.diag(fisher))
    wanted = (used * (found / truth - 1) * slopes).sum(axis=(1, 2, 3))
    np.testing.assert_allclose((gradient / scale)[:n], (wanted / scale)[:n], atol=1e-6)
    information = np.einsum("azyx,bzyx,zyx->ab", slopes, slopes, used / truth)
    scale = scale[:, None] * scale
    np.testing.assert_allclose((fisher / scale)[:n, :n], (information / scale)[:n, :n], atol=1e-6)
