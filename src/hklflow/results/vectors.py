"""Sums of a pair distribution over lattice vectors, with the errors that the vectors share."""

from collections.abc import Sized
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.results.arguments import real, shown

if TYPE_CHECKING:
    from hklflow.results.source import Source

Floats = NDArray[np.float64]


def covariance_of(source: "Source", vectors: ArrayLike) -> Floats:
    """Return the covariance (n, n) of lattice vectors (n, 3); see `Volume.covariance`."""
    from hklflow.nexus.lattice_vectors import kriged, read_covariance
    from hklflow.nexus.plottable import open_plottable

    with open_plottable(source.path, source.inside) as plottable:
        stored = None if plottable is None else read_covariance(plottable.signal.parent)
        kept = [] if plottable is None or stored is not None else kriged(plottable.signal.parent)
    if stored is None:
        raise HklflowError(
            f"{source.path} has no covariance of lattice vectors: it is stored with pair "
            "distributions whose holes were filled by the spectrum; "
            + ("; ".join(kept) or "run the stages fill and pdf with `spectrum: true`")
        )
    known, matrix = stored
    numbers = {
        tuple(mate): i
        for i, vector in enumerate(known)
        for mate in np.rint(vector @ source.operations.transpose(0, 2, 1)).astype(int).tolist()
    }
    which = []
    for vector in _triples(vectors, "vectors"):
        whole = np.rint(vector)
        place = numbers.get(tuple(whole.astype(int).tolist()))
        if place is None or np.any(np.abs(vector - whole) > 1e-4):
            raise HklflowError(
                f"vectors: ({', '.join(f'{x:g}' for x in vector)}) is none of the {len(known)} "
                f"lattice vectors with a covariance in {source.path}; give lattice vectors of at "
                f"most {np.abs(known).max():g} cells"
            )
        which.append(place)
    result: Floats = matrix[np.ix_(which, which)]
    return result


def weighted_sum(source: "Source", vectors: ArrayLike, weights: ArrayLike) -> tuple[float, float]:
    """Return a sum over lattice vectors, and σ; see `Volume.weighted_sum`."""
    matrix = covariance_of(source, vectors)
    factors = real(weights, (len(matrix),))
    if factors is None:
        raise HklflowError(
            f"weights: {shown(weights)} is not one number for each of the {len(matrix)} vectors; "
            "correct it"
        )
    grid = source.grid
    exact = (_triples(vectors, "vectors") - grid.first) / grid.step
    index = np.rint(exact).astype(int)
    if np.any(np.abs(exact - index) > 1e-3):
        raise HklflowError(
            f"vectors: lattice vectors are no voxels of {source.path}, whose steps are "
            f"{', '.join(f'{s:g}' for s in grid.step)} cells; run the stage pdf with `sizes` for "
            "which 1 / (size * step of hkl) divides 1"
        )
    with source.open() as arrays:
        signal = arrays.plane("data")
        values = [float(signal[z : z + 1, y : y + 1, x : x + 1].item()) for x, y, z in index]
    return float(factors @ values), float(np.sqrt(factors @ matrix @ factors))


def _triples(vectors: ArrayLike, name: str) -> Floats:
    array = real(vectors, (len(vectors) if isinstance(vectors, Sized) else 0, 3))
    if array is None or not len(array):
        raise HklflowError(
            f"{name}: {shown(vectors)} is not a list of x, y, z; give a list, such as "
            "[(1, 0, 0), (0, 1, 0)]"
        )
    return array
