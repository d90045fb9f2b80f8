"""Estimates as xarray objects, with units, coordinates and what the errors contain."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from hklflow.results import plotting  # noqa: F401  (registers the accessor)
from hklflow.results.estimate import Estimate
from hklflow.results.source import KINDS, Source

_ESTIMANDS = {
    "ratio": "sum of counts over sum of norm, each measurement once",
    "mean": "unweighted mean over the measured voxels",
}


def dataset(
    source: Source,
    found: Estimate,
    dims: tuple[str, ...],
    coordinates: Mapping[str, Any],
    estimand: str,
    about: Mapping[str, Any],
) -> xr.Dataset:
    """Return an estimate with its coordinates.

    Parameters
    ----------
    dims : tuple of str
        Names of the dimensions of the estimate.
    coordinates : mapping
        Name to (dimensions, values, attributes).
    about : mapping
        Description of the region.
    """
    label = KINDS.get(source.kind, source.kind)
    what = {"long_name": label, "units": source.unit}
    variables: dict[str, Any] = {
        "S": (dims, found.value, what),
        "sigma": (dims, found.sigma, {**what, "long_name": f"standard deviation of {label}"}),
        "voxels": (dims, found.voxels, {"long_name": "number of voxels"}),
        "measured": (dims, found.measured, {"long_name": "measured share of the voxels"}),
    }
    if found.filled is not None:
        named = {"long_name": "filled share of the voxels"}
        variables["filled"] = (dims, found.filled, named)
    if found.background is not None:
        named = {
            "long_name": "error by the level of the background",
            "units": source.unit,
            "description": "common to all voxels: add it linearly; it is not part of sigma",
        }
        variables["sigma_background"] = (dims, found.background, named)
    attrs = {
        "kind": source.kind,
        "title": source.title,
        "file": "/".join([str(source.path), *source.inside]),
        "estimand": f"{estimand}: {_ESTIMANDS[estimand]}",
        "cell": np.asarray(source.cell, dtype=np.float64),
        "volume of a voxel": float(
            np.prod(source.grid.step) * np.sqrt(np.linalg.det(source.metric))
        ),
        "unit of the volume": "angstrom^3" if source.direct else "1/angstrom^3",
        **about,
        "errors": errors_of(source, found),
    }
    cut = xr.Dataset(variables, dict(coordinates), attrs)
    # Distances differ with the cell: with an index, xarray would join lines of two temperatures by
    # equal distances, and leave out all other bins without a word.
    return cut.drop_indexes("distance") if "distance" in dims else cut


def errors_of(source: Source, found: Estimate) -> str:
    """Return what sigma contains and what it does not contain."""
    if source.direct:
        return (
            "of single points; points of a pair distribution function are correlated, and a mean "
            "of several points has no error"
        )
    sentences = ["photon noise" + (" and read noise" if source.kind != "filled" else "")]
    if len(source.operations) > 1:
        sentences.append("images of one voxel in a bin count as one measurement")
    if found.elsewhere:
        sentences.append(
            f"{100 * found.elsewhere:.0f} % of the voxels have an image in another bin: such bins "
            "have the same noise"
        )
    if found.filled is not None:
        sentences.append("filled voxels add no information")
    if found.background is None:
        sentences.append(
            "the file holds no background: if one was subtracted, its errors that voxels share are "
            "not in sigma"
        )
    else:
        shared = "the noise of the background that voxels share"
        within = {
            "filled": f"without {shared}",
            "symmetrised": f"with {shared} with their neighbours, not with their images",
        }
        sentences.append(within.get(source.kind, f"with {shared} with their neighbours"))
        sentences.append("the error of its level is sigma_background, not in sigma")
    sentences.append("errors of scales, common to all of S, are not in sigma")
    return "; ".join(sentences)
