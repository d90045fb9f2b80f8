"""Differences of cuts, with errors."""

from typing import Any

import numpy as np
import xarray as xr

from hklflow.base.errors import HklflowError

_SAME = 1e-6


def difference(cut: xr.Dataset, other: xr.Dataset) -> xr.Dataset:
    """Return a cut minus another one, bin by bin; see `Accessor.minus`."""
    _require_alike(cut, other)
    label = cut.S.attrs.get("long_name", "S")
    units = {"units": cut.S.attrs.get("units", "")}
    dims = cut.S.dims
    variables: dict[str, Any] = {
        "S": (dims, cut.S.values - other.S.values, {"long_name": f"difference of {label}"}),
        "sigma": (
            dims,
            np.hypot(cut.sigma.values, other.sigma.values),
            {"long_name": f"standard deviation of the difference of {label}"},
        ),
    }
    errors = [
        "as of independent measurements: not valid if bins of the two cuts share voxels, or are "
        "images of each other in one symmetrised volume",
        f"minuend: {cut.attrs.get('errors', '')}",
    ]
    levels = [one.sigma_background.values for one in (cut, other) if "sigma_background" in one]
    if levels:
        text = "error by the levels of the backgrounds; smaller if both scans have the same runs"
        variables["sigma_background"] = (
            dims,
            np.sqrt(np.sum(np.square(levels), axis=0)),
            {"long_name": text},
        )
    for array in variables.values():
        array[2].update(units)
    measured = np.minimum(cut.measured.values, other.measured.values)
    variables["measured"] = (dims, measured, {"long_name": "smaller measured share of the voxels"})
    attrs = dict(cut.attrs) | {
        "kind": "difference",
        "title": f"{cut.attrs.get('title', '')} minus {other.attrs.get('title', '')}",
        "file": [cut.attrs.get("file", ""), other.attrs.get("file", "")],
        "errors": "; ".join(errors),
    }
    return xr.Dataset(variables, cut.coords, attrs)


def _require_alike(cut: xr.Dataset, other: xr.Dataset) -> None:
    """Refuse cuts whose bins do not belong together.

    Raises
    ------
    HklflowError
        If a cut has no S and sigma, or region, bins, estimand or units differ.
    """
    for one in (cut, other):
        if not (isinstance(one, xr.Dataset) and {"S", "sigma", "measured"} <= set(one)):
            raise HklflowError(
                "one of the two is no cut with S, sigma and measured; subtract results of plane, "
                "line, radial, box or rebin"
            )
    for name in ("estimand", "width", "width unit"):
        a, b = cut.attrs.get(name), other.attrs.get(name)
        if a != b:
            raise HklflowError(f"the cuts differ in {name}: {a} and {b}; cut both alike")
    a, b = (one.S.attrs.get("units") for one in (cut, other))
    if a != b:
        raise HklflowError(f"the cuts have S in {a} and in {b}; subtract volumes of one kind")
    if cut.S.dims != other.S.dims or cut.S.shape != other.S.shape:
        shapes = (dict(one.S.sizes) for one in (cut, other))
        raise HklflowError(
            f"the cuts have other bins: {' and '.join(map(str, shapes))}; give both the same "
            "region and step"
        )
    if "start" in cut.attrs:  # the distance in 1/Å changes with the cell, and parallel lines differ
        directions = (np.subtract(one.attrs["end"], one.attrs["start"]) for one in (cut, other))
        known = {"direction of the line": directions}
    else:
        known = {str(d): (one[d].values for one in (cut, other)) for d in cut.S.dims}
    for name, (first, second) in known.items():
        if np.max(np.abs(first - second), initial=0.0) > _SAME:
            raise HklflowError(
                f"the bins of the cuts differ in {name}; give both the same region and step"
            )
