r"""S of the bins of a region, and its standard deviation.

Two estimands. With ``k`` the number of images of a voxel in its bin, which repeat one measurement:

* ``ratio``: :math:`Σ (C / k) / Σ (M / k)` over the measured voxels. Each measurement counts once,
  with its exposure: the most precise estimate where S is constant in the bin. Its variance is
  :math:`Σ (v / k) / (Σ M / k)²` with the variance v of the counts.
* ``mean``: the unweighted mean of S over the n measured voxels. Its variance is
  :math:`Σ k σ² / n²`.

v is :math:`(σ M)²` with σ of the voxel, because the counts of a voxel fluctuate together with a
variance that is estimated from them alone (see `hklflow.transform.estimator`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.nexus.volume import BACKGROUND_NOTES
from hklflow.results.regions import Region, images_elsewhere, images_in_bins
from hklflow.results.source import OTHER, Arrays, Source

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Estimand = Literal["ratio", "mean"]

_SAMPLE = 100  # voxels of a block

_LEVELS, _GROWTH = BACKGROUND_NOTES


@dataclass(frozen=True)
class Estimate:
    """S of the bins of a region.

    Attributes
    ----------
    value, sigma : arrays
        NaN where nothing was measured; σ is NaN if it is not known.
    voxels : int array
        Number of voxels of the volume in each bin.
    measured : array
        Measured share of these voxels, NaN without voxels.
    filled : array or None
        Filled share of these voxels; None if the volume is not filled.
    background : array or None
        Error by the levels of the backgrounds, which all voxels have in common, so that it adds
        up linearly and is not part of ``sigma``; None without a background in the file.
    elsewhere : float
        Share of the measured voxels with an image in another bin, from a sample.
    """

    value: Floats
    sigma: Floats
    voxels: Integers
    measured: Floats
    filled: Floats | None
    background: Floats | None
    elsewhere: float


@dataclass
class _Sums:
    """Sums over the voxels of each bin, by name."""

    size: int
    sums: dict[str, Floats] = field(default_factory=dict)

    def add(self, bins: Integers, **terms: Any) -> None:
        if not len(bins):
            return
        first = int(bins.min())
        for name, term in terms.items():
            if name not in self.sums:
                self.sums[name] = np.zeros(self.size)
            weights = None if term is None else np.asarray(term, dtype=np.float64)
            found = np.bincount(bins - first, weights)
            self.sums[name][first : first + len(found)] += found

    def __getitem__(self, name: str) -> Floats:
        return self.sums.get(name, np.zeros(self.size))


def estimate(
    source: Source, region: Region, estimand: Estimand, *, filled: bool = False
) -> Estimate:
    """Return S of the bins of a region; only the blocks that reach into it are read.

    Parameters
    ----------
    filled : bool
        True: filled voxels are part of the mean. Their errors are then added linearly to the
        error of the measured voxels, which gives an upper limit.

    Raises
    ------
    HklflowError
        If the region has no voxel, nothing was measured in it, or the volume has no counts and
        norm for a ratio.
    """
    sums = _Sums(int(np.prod(region.shape)))
    turned = [region.turned(operation) for operation in source.operations]
    with source.open() as arrays:
        _require(source, arrays, estimand, filled)
        for bins, points, values in _blocks(source, arrays, region):
            sums.add(bins, voxels=None)
            _add(sums, bins, points, values, source, region, turned, filled)
        with_errors, background = arrays.plane("errors") is not None, arrays.has_background
    n = sums["voxels"]
    if not n.any():
        raise HklflowError(
            f"the region contains no voxel centre of {source.path} ({source.ranges}, steps "
            f"{', '.join(f'{step:g}' for step in source.grid.step)}); choose a region inside the "
            "volume, or a wider one"
        )
    used = sums["measured"] + sums["filled used"]
    if not used.any():
        by_fill = f" ({int(sums['filled'].sum())} are filled)" if source.kind == "filled" else ""
        raise HklflowError(
            f"nothing was measured in the region: none of its {int(n.sum())} voxels in "
            f"{source.path}{by_fill}; choose another region"
        )
    value, sigma, common = _divided(sums, used, estimand, source)
    if not with_errors:
        sigma[:] = np.nan
    if source.direct:  # neighbouring points of a transform are correlated
        sigma[used > 1] = np.nan

    def shaped(values: Any) -> Any:
        return np.asarray(values).reshape(region.shape)

    return Estimate(
        shaped(value),
        shaped(sigma),
        shaped(n.astype(np.int64)),
        shaped(_ratio(sums["measured"], n)),
        shaped(_ratio(sums["filled"], n)) if source.kind == "filled" else None,
        shaped(common) if background else None,
        float(sums["elsewhere"].sum() / max(sums["sampled"].sum(), 1)),
    )


def _require(source: Source, arrays: Arrays, estimand: str, filled: bool) -> None:
    if estimand not in ("ratio", "mean"):
        raise HklflowError(f"estimand {estimand!r} does not exist; give 'ratio' or 'mean'")
    if estimand == "ratio" and not arrays.has_ratio:
        raise HklflowError(
            f"{source.path} has no counts and norm, so that the ratio of sums is not possible; "
            "give estimand='mean'"
        )
    if filled and source.kind != "filled":
        raise HklflowError(f"{source.path} has no filled voxels; leave out filled=True")


def _blocks(
    source: Source, arrays: Arrays, region: Region
) -> Iterator[tuple[Integers, Floats, dict[str, NDArray[Any]]]]:
    """Yield bins (n,), points (n, 3) and arrays (n,) of the voxels of a region, block by block."""
    shape, block, grid = source.grid.array_shape, arrays.block, source.grid
    starts = [np.arange(0, n, b) for n, b in zip(shape, block, strict=True)]
    first = np.array(list(product(*starts)))
    last = np.minimum(first + block, shape) - 1
    middle, half = (grid.first + (first + last)[:, ::-1] / 2 * grid.step), (last - first) / 2
    kept = region.near(middle, half[:, ::-1] * grid.step)
    axes = [grid.axis(i) for i in range(3)]
    for low, high in zip(first[kept], last[kept] + 1, strict=True):
        parts = [slice(int(a), int(b)) for a, b in zip(low, high, strict=True)]
        own = [axis[part] for axis, part in zip(axes, parts[::-1], strict=True)]
        l, k, h = np.meshgrid(*own[::-1], indexing="ij", sparse=True)  # noqa: E741
        points = np.stack(np.broadcast_arrays(h, k, l), axis=-1)
        bins = region.bins(points.reshape(-1, 3)).reshape(points.shape[:3])
        inside = bins >= 0
        if not inside.any():
            continue
        # Only the rows that are needed: blocks are large where a region is thin.
        used = [np.flatnonzero(inside.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
        crop = tuple(slice(int(n[0]), int(n[-1]) + 1) for n in used)
        read = tuple(
            slice(part.start + c.start, part.start + c.stop)
            for part, c in zip(parts, crop, strict=True)
        )
        found = arrays.read(read, "errors", *OTHER)
        inside = inside[crop]
        yield bins[crop][inside], points[crop][inside], {n: a[inside] for n, a in found.items()}


def _add(
    sums: _Sums,
    bins: Integers,
    points: Floats,
    values: dict[str, NDArray[Any]],
    source: Source,
    region: Region,
    turned: Sequence[Region],
    filled: bool,
) -> None:
    """Add voxels of a block to the sums of their bins."""
    data = values["data"].astype(np.float64)
    known = np.isfinite(data)
    if "norm" in values:
        known &= values["norm"] > 0
    if "punched" in values:
        by_fill = known & np.isin(values["punched"], (1, 2))
        sums.add(bins[by_fill], filled=None)
        if filled:
            errors = values["errors"][by_fill]
            used = {"filled used": None, "S": data[by_fill], "sigma filled": errors}
            sums.add(bins[by_fill], **used)
        known &= ~by_fill
    bins, points, data = bins[known], points[known], data[known]
    if not len(bins):
        return
    values = {name: array[known].astype(np.float64) for name, array in values.items()}
    k = np.ones(len(bins))
    if len(source.operations) > 1:
        symmetry = source.operations, source.contains
        k = images_in_bins(points, bins, region, turned, *symmetry)
        # A sample is enough for a share.
        some = slice(None, None, len(bins) // _SAMPLE + 1)
        elsewhere = images_elsewhere(points[some], bins[some], region, *symmetry)
        sums.add(bins[some], elsewhere=elsewhere, sampled=None)
    variance = values["errors"] ** 2 if "errors" in values else np.zeros(len(bins))
    sums.add(bins, measured=None, S=data, **{"k variance": k * variance})
    if "data_background" in values:
        sums.add(bins, **{"B / M": values["data_background"]})
    if "counts" not in values or "norm" not in values:
        return
    norm = values["norm"]
    sums.add(bins, C=values["counts"] / k, M=norm / k, v=variance * norm**2 / k)
    if "background" in values and "variance" in values:
        # What photons do not explain is the noise of the background (and of the detector).
        noise = values["variance"] - values["counts"] - values["background"]
        sums.add(
            bins,
            B=values["background"] / k,
            b=noise / k,
            **{"B / M": values["background"] / norm, "b / M2": k * noise / norm**2},
        )


def _divided(
    sums: _Sums, used: Floats, estimand: Estimand, source: Source
) -> tuple[Floats, Floats, Floats]:
    """Return S, σ and the common error by the background of each bin."""
    grown = _growth(source, used) - 1
    level = _level(source)
    if estimand == "ratio":
        variance = sums["v"] + grown * np.maximum(sums["b"], 0)
        return (
            _ratio(sums["C"], sums["M"]),
            _ratio(np.sqrt(variance), sums["M"]),
            level * _ratio(sums["B"], sums["M"]),
        )
    variance = sums["k variance"] + grown * np.maximum(sums["b / M2"], 0)
    sigma = np.sqrt(variance) + sums["sigma filled"]
    common = level * _ratio(sums["B / M"], sums["measured"])
    return _ratio(sums["S"], used), _ratio(sigma, used), common


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)


def _growth(source: Source, n: Floats) -> Floats:
    """Return the factor of the background's variance in a sum of n voxels; see `surroundings`."""
    factor = np.ones(len(n))
    for table in _tables(source.notes.get(_GROWTH) or {}):
        sizes = sorted((int(name.split()[0]) ** 3, float(value)) for name, value in table.items())
        at = np.searchsorted([size for size, _ in sizes], n)
        values = np.array([value for _, value in sizes])
        factor = np.maximum(factor, values[np.minimum(at, len(sizes) - 1)])
    return np.where(n > 1, factor, 1.0)


def _level(source: Source) -> float:
    """Return the largest relative error of a background; the error of all is not larger."""
    tables = _tables(source.notes.get(_LEVELS) or {})
    return max((float(error) for table in tables for error in table.values()), default=0.0)


def _tables(noted: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the tables of numbers; those of several volumes are in a mapping by their names."""
    nested = [entry for entry in noted.values() if isinstance(entry, Mapping)]
    for entry in nested:
        yield from _tables(entry)
    if noted and not nested:
        yield noted
