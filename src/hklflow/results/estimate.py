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
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.nexus.volume import BACKGROUND_NOTES
from hklflow.results.blocks import Block, blocks_of, fewest, in_threads
from hklflow.results.regions import Axes, Region, images_elsewhere, images_in_bins
from hklflow.results.source import THREADS, Arrays, Source

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Estimand = Literal["ratio", "mean"]

_SAMPLE = 400  # voxels of a box

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
        task = _Task(source, arrays, region, turned, _needed(arrays, estimand), estimand, filled)
        shape = fewest(source.grid, arrays.shapes, region)
        blocks = blocks_of(source.grid, shape, region, turned)
        for parts in in_threads(task.terms, blocks, THREADS):
            for bins, terms in parts:
                sums.add(bins, **terms)
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


def _needed(arrays: Arrays, estimand: str) -> list[str]:
    """Return the names of the arrays that are read; most of the time is spent on reading."""
    names = ["counts", "norm", "errors"] if estimand == "ratio" else ["data", "errors"]
    names += [name for name in ("punched", "data_background") if arrays.has(name)]
    if arrays.has_sums_of_background:
        names += ["counts", "norm", "variance", "background"]
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class _Task:
    """Terms of the sums over a region, block by block; blocks can be done in several threads."""

    source: Source
    arrays: Arrays
    region: Region
    turned: Sequence[Region]
    names: Sequence[str]
    estimand: Estimand
    filled: bool

    def terms(self, block: Block) -> list[tuple[Integers, dict[str, Any]]]:
        """Return bins (n,) and terms (n,) of voxels in a block."""
        axes = block.axes(self.source.grid)
        bins = self.region.bins(axes)
        inside = bins >= 0
        if not inside.any():
            return []
        values = self.arrays.read(block.region, *self.names)
        parts: list[tuple[Integers, dict[str, Any]]] = [(bins[inside], {"voxels": None})]
        # Where the norm is 0, S is not finite.
        known = inside & (np.isfinite(values["data"]) if "data" in values else values["norm"] > 0)
        if "punched" in values:
            by_fill = known & np.isin(values["punched"], (1, 2))
            parts.append((bins[by_fill], {"filled": None}))
            if self.filled:
                s, sigma = values["data"][by_fill], values["errors"][by_fill]
                parts.append((bins[by_fill], {"filled used": None, "S": s, "sigma filled": sigma}))
            known &= ~by_fill
        if known.any():
            measured = {n: array[known].astype(np.float64) for n, array in values.items()}
            k, sampled = self._images(axes, bins, known, block.candidates)
            parts += [sampled, (bins[known], _terms(measured, k, self.estimand))]
        return parts

    def _images(
        self, axes: Axes, bins: Integers, known: NDArray[np.bool_], candidates: Integers
    ) -> tuple[Any, tuple[Integers, dict[str, Any]]]:
        """Return the images in their bins of known voxels, and a sample of images in others."""
        operations, inside = self.source.operations, self.source.contains
        if len(operations) == 1:
            return 1.0, (bins[:0].ravel(), {})
        images = [self.turned[i] for i in candidates]
        k = images_in_bins(axes, bins, images, operations[candidates], inside)[known]
        # A sample is enough for a share.
        number = np.flatnonzero(known)
        some = np.unravel_index(number[:: len(number) // _SAMPLE + 1], known.shape)
        points = np.stack([axis[some] for axis in np.broadcast_arrays(*axes)], axis=-1)
        elsewhere = images_elsewhere(points, bins[some], self.region, operations, inside)
        return k, (bins[some], {"elsewhere": elsewhere, "sampled": None})


def _terms(values: Mapping[str, Floats], k: Any, estimand: Estimand) -> dict[str, Any]:
    """Return the terms of measured voxels with k images in their bin."""
    first = values["norm" if estimand == "ratio" else "data"]
    variance = values["errors"] ** 2 if "errors" in values else np.zeros(len(first))
    photons = None
    if "background" in values:
        # What photons do not explain is the noise of the background (and of the detector).
        photons = values["counts"] + values["background"]
    terms: dict[str, Any] = {"measured": None}
    if estimand == "ratio":
        norm = values["norm"]
        terms |= {"C": values["counts"] / k, "M": norm / k, "v": variance * norm**2 / k}
        if photons is not None:
            terms |= {"B": values["background"] / k, "b": (values["variance"] - photons) / k}
        return terms
    terms |= {"S": values["data"], "k variance": k * variance}
    if "data_background" in values:
        terms["B / M"] = values["data_background"]
    if photons is not None:
        norm = values["norm"]
        terms["B / M"] = values["background"] / norm
        terms["b / M2"] = k * (values["variance"] - photons) / norm**2
    return terms


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
