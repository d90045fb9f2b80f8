"""Judge of σ of the ΔPDF where regions were not measured: pulls against |r|."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hklflow.volumes import pdf
from hklflow.volumes.gap_errors import GapFactor, GapSums, gap_factor
from hklflow.volumes.pdf_plan import Plan, plan
from hklflow.volumes.tapers import Taper
from tests.truth.hole_judge import FLAT
from tests.truth.hole_worlds import Array, World

#: Ranges of |r| in Å.
RANGES = ((2.0, 5.0), (5.0, 10.0), (10.0, 18.0))


@dataclass(frozen=True)
class Volumes:
    """ΔPDF and its errors (z, y, x), by the code of the stage `pdf`.

    Attributes
    ----------
    independent, sigma : arrays
        σ of independent voxels, and σ with the factor of gaps.
    factor : GapFactor or None
    """

    pdf: Array
    independent: Array
    sigma: Array
    factor: GapFactor | None


def planned(world: World) -> Plan:
    """Return the plan of the transform of a world, with its default taper."""
    taper = Taper("tukey", world.q_max, FLAT)
    return plan(world.grid, world.lattice.cell, taper, world.lattice.operations)


def volumes(made: Plan, data: Array, sigma: Array, code: Array) -> Volumes:
    """Transform S, σ and codes (l, k, h) as the stage `pdf` does, without lattice vectors."""
    store = pdf.Store(made.half_shape, np.complex64)
    transform = pdf.Transform(made, store, 100e6, 1, pdf.unit_of(sigma) or 1.0)
    transform.load([(0, sigma.astype(np.float32))], variance=True)
    errors = pdf.Errors(made, pdf.Store(made.kept_shape, np.float32), transform)
    sums = GapSums(made)
    for l, (codes, values) in enumerate(zip(code, sigma, strict=True)):  # noqa: E741
        sums.add(l, codes, values)
    transform.load([(0, data.astype(np.float32))])
    n_z = made.sizes[2]
    independent = errors.planes(0, n_z)
    factor = gap_factor(sums, transform, errors)
    if factor is not None:
        errors.multiply(factor.plane, factor.beyond)
    values = transform.planes(0, n_z) * np.float32(made.scale * transform.unit)
    return Volumes(values, independent, errors.planes(0, n_z), factor)


def squared_pulls(
    world: World, data: Array, sigma: Array, ranges: Iterable[tuple[float, float]] = RANGES
) -> Array:
    """Return the mean squared pulls (2, ranges): of independent voxels, and with the factor.

    The truth is the transform of the true S. Voxels within a quarter cell of a lattice vector are
    left out.
    """
    made = planned(world)
    truth = pdf.transform_volume(made, world.truth.astype(np.float32), np.ones_like(sigma))[0]
    found = volumes(made, data, sigma, world.punched)
    axes = [made.direct.axis(i) for i in range(3)]
    r = np.stack(np.meshgrid(*axes[::-1], indexing="ij")[::-1], axis=-1)
    away = np.abs(r - np.rint(r)).max(axis=-1) > 0.25
    length = np.linalg.norm(r @ world.lattice.direct.T, axis=-1)
    own = [away & (length > low) & (length < high) for low, high in ranges]
    squares = ((found.pdf - truth) / np.stack([found.independent, found.sigma])) ** 2
    return np.array([[part[where].mean() for where in own] for part in squares])
