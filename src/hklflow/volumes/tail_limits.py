"""Size of maxima inside of holes that the data neither show nor exclude.

With few counts, a fit of all parameters of `tail_models` cannot decide whether there are maxima.
Fewer parameters can say how large they may be: Γ is isotropic, and A_G = α G²ⁿ exp(−β G²) at all
reflections. κ, c, p and β are from a grid, b is a straight line near its fit without maxima, and α,
not negative, is integrated. n is 1 for displacements and 0 for maxima of other scattering.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from hklflow.volumes.tail_fit import Fit, Problem
from hklflow.volumes.tail_models import Family, Kind

Floats = NDArray[np.float64]

# κ in radii of a hole, for p = 1, 2 and 4, and c; None: no Gaussian end.
_KAPPAS = {1.0: (0.15, 0.35, 0.8, 1.8), 2.0: (0.6, 1.2, 2.4), 4.0: (0.8, 1.6, 3.2)}
_ENDS = (None, 0.8, 1.6, 3.2)
_DECAYS = (0.0, 0.5, 1.0, 2.0)  # β, over the mean G²
# Standard deviation of what is expected of A_G, in the mean S around the reflections.
_WIDTH = 0.5
_SPREAD = 0.3  # relative spread of A_G
_ANY = 0.5  # prior probability of elastic waves, if there are maxima


@dataclass(frozen=True)
class Limits:
    """Models of maxima that grow with G², and how likely they are.

    Attributes
    ----------
    shapes : list of (Kind, array)
        Kind and parameters of each model.
    decays : (m,) array
        β of each model, Å².
    shares : (m,) array
        Probability of each model, if there are maxima that grow.
    mean, error : (m,) arrays
        α and its σ; α is not negative.
    keep, grow : float
        ln of the evidence for maxima that keep their size, and that grow, against none.
    """

    shapes: list[tuple[Kind, Floats]]
    decays: Floats
    shares: Floats
    mean: Floats
    error: Floats
    keep: float
    grow: float

    @property
    def pull(self) -> float:
        """Mean α/σ."""
        return float(self.shares @ (self.mean / self.error))

    def drawn(
        self, elastic: bool, number: int, squares: Floats, random: np.random.Generator
    ) -> list[tuple[Kind, Floats, Floats]]:
        """Draw models: kind, parameters and A_G of reflections with G² ``squares``, 1/Å²."""
        from scipy.stats import truncnorm

        own = np.flatnonzero([kind.elastic == elastic for kind, _ in self.shapes])
        steps = np.cumsum(self.shares[own])
        levels = (np.arange(number) + 0.5) / number
        at = own[np.minimum(np.searchsorted(steps / steps[-1], levels), len(own) - 1)]
        least = -self.mean[at] / self.error[at]
        alpha = self.mean[at] + self.error[at] * truncnorm.ppf(
            random.permutation(levels), least, np.inf
        )
        return [
            (*self.shapes[i], size * squares * np.exp(-self.decays[i] * squares) * factors)
            for i, size, factors in zip(
                at, alpha, 1 + _SPREAD * random.normal(size=(number, len(squares))), strict=True
            )
        ]


def _shapes(family: Family, plain: Fit) -> list[tuple[Kind, Floats]]:
    """Return the isotropic models of the grid, with b of a fit without maxima."""
    shapes = []
    for end in _ENDS:
        for power, kappas in ((None, (1e-5,)), *_KAPPAS.items()):
            kind = Kind(power or 1.0, end is not None, elastic=power is None)
            for kappa in kappas:
                least = family.bounds(kind)[0][0]
                values = family.start(kappa * family.unit, (end or 1.0) * family.unit, False)
                values[0] = max(values[0], least) if power else least + 0.1
                values[2 + family.sizes[0] :] = family.of_waves(plain.values)
                shapes.append((kind, values))
    return shapes


def limits(plain: Fit, data: Problem, family: Family, squares: Floats, stretch: float) -> Limits:
    """Return the sizes that maxima may have.

    Parameters
    ----------
    plain : Fit
        Without maxima.
    data : Problem
    family : Family
    squares : (g,) array
        G² of all sets of equivalent reflections, 1/Å².
    stretch : float
        χ² per degree of freedom.
    """
    from scipy.special import log_ndtr, logsumexp

    shapes = _shapes(family, plain)
    known, level, rise, size, across, curvature, slope = data.probed(plain, shapes)
    g = squares[known]
    inverse = np.linalg.inv(curvature)
    width = _WIDTH * level
    found = {}
    decays = np.array(_DECAYS) / g.mean()
    for n in (0, 1):
        mean, error, evidence = np.empty((3, len(shapes), len(decays)))
        for j, decay in enumerate(decays):
            profile = g**n * np.exp(-decay * g)
            # α in units of the mean A_G.
            scale = profile.mean()
            k = profile @ across
            upper = (rise @ profile - k @ inverse @ slope) / stretch
            lower = (size @ profile**2 - np.einsum("ni,ij,nj->n", k, inverse, k)) / stretch
            precision = lower + (scale / width) ** 2
            mean[:, j], error[:, j] = upper / precision, 1 / np.sqrt(precision)
            pull = mean[:, j] / error[:, j]
            evidence[:, j] = (
                0.5 * pull**2 + log_ndtr(pull) + np.log(2 * error[:, j] * scale / width)
            )
        found[n] = mean, error, evidence
    elastic = np.array([kind.elastic for kind, _ in shapes])
    prior = np.where(elastic, _ANY / elastic.sum(), (1 - _ANY) / (~elastic).sum())
    prior = np.log(prior / len(decays))[:, None]
    mean, error, evidence = found[1]
    total = float(logsumexp(evidence + prior))
    return Limits(
        [shape for shape, _ in product(shapes, decays)],
        np.tile(decays, len(shapes)),
        np.exp(evidence + prior - total).ravel(),
        mean.ravel(),
        error.ravel(),
        float(logsumexp(found[0][2] + prior)),
        total,
    )
