"""The pair distribution at lattice vectors: its covariance, and the offset that they share."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hklflow.volumes.hole_covariance import HoleSums, Prior

if TYPE_CHECKING:
    from hklflow.volumes.pdf import Errors
    from hklflow.volumes.pdf_plan import Plan

Floats = NDArray[np.float64]

# Correlations have died where less than this share of the variance is signal.
_DIED = 0.2
# Smallest number of such vectors whose mean is reported.
_FEWEST = 10


class LatticeVectors:
    """Lattice vectors of a pair distribution whose covariance is known.

    Attributes
    ----------
    vectors : (n, 3) array
        In unit cells.
    values : (n,) array
        Pair distribution, known after `collect` saw all blocks; NaN where a vector is no voxel.
    covariance : (n, n) array
        Known after `finish`.
    """

    def __init__(self, made: "Plan", prior: Prior) -> None:
        grid = made.direct
        exact = (prior.vectors - grid.first) / grid.step
        index = np.rint(exact).astype(int)
        self._on_voxels = np.all(np.abs(exact - index) < 1e-4, axis=1)
        self._on_voxels &= np.all((index >= 0) & (index < grid.shape), axis=1)
        self.vectors, self._signal, self._index = prior.vectors, prior.signal, index
        self.sums = HoleSums(made, prior)
        self.values = np.full(len(index), np.nan)
        self.covariance = np.zeros((0, 0))
        self._independent = np.zeros(0)

    def finish(self, errors: "Errors") -> None:
        """Make the covariance; the errors of these vectors and of their equivalents get it."""
        self.covariance = self.sums.covariance()
        own = self._on_voxels
        sigma = np.sqrt(np.diag(self.covariance)[own])
        self._independent = errors.replace(self.vectors[own], sigma)

    def collect(self, first: int, values: NDArray[np.float32]) -> None:
        """Keep the values of a block (z, y, x) of the pair distribution."""
        z = self._index[:, 2] - first
        own = self._on_voxels & (z >= 0) & (z < len(values))
        self.values[own] = values[z[own], self._index[own, 1], self._index[own, 0]]

    def figures(self) -> dict[str, Any]:
        """Return the number of vectors, what the holes do to σ, and the offset of far vectors."""
        sigma = np.sqrt(np.diag(self.covariance))
        far = np.flatnonzero((self._signal < _DIED) & np.isfinite(self.values))
        offset = None
        if len(far) >= _FEWEST:
            error = float(np.sqrt(self.covariance[np.ix_(far, far)].sum())) / len(far)
            offset = {
                "vectors": len(far),
                "mean": float(self.values[far].mean()),
                "sigma": error,
                "sigma if vectors were independent": float(np.sqrt(np.sum(sigma[far] ** 2)))
                / len(far),
            }
        ratio = sigma[self._on_voxels] / self._independent
        return {
            "vectors": len(sigma),
            "sigma over that of independent voxels": float(ratio.mean()) if len(ratio) else None,
            "offset of vectors without correlations": offset,
        }
