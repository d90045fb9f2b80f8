"""Summary of a detector's constants: statistics of every ASIC, and images.

If there are many memory cells, some evenly spaced ones are sampled, because a detector of a million
pixels has hundreds of cells.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.constants.detectors import DETECTORS, STAGES, Size
from hklflow.constants.files import DetectorConstants, about_of
from hklflow.constants.status import Bit, bad
from hklflow.images.masks import MaskBit

Floats = NDArray[np.float32]

PERCENTILES = (5, 25, 50, 75, 95)
"""Percentiles of an ASIC's values in the table."""

BINS = 80
"""Number of bins of the histograms of all values."""

_PLANES = {3: STAGES, 2: ("high_medium", "medium_low")}


def summarise(constants: DetectorConstants, asic: Size | None, cells: int) -> dict[str, Any]:
    """Return the statistics of each ASIC, over pixels that are not masked.

    Parameters
    ----------
    constants : DetectorConstants
    asic : (ss, fs), optional
        Size of an ASIC. None: the ASIC size of the detector; for photon counters whole modules.
    cells : int
        Approximate number of sampled memory cells.

    Returns
    -------
    dict
        ``rows``: for every ASIC medians, spreads (1.4826 times the median deviation), percentiles
        and fractions with each bit; ``histograms``: for every quantity.
    """
    rows: list[dict[str, Any]] = []
    units: dict[str, str] = {}
    for number in constants.modules:
        group = constants.group(number)
        shape = _shape(group)
        boxes = list(_boxes(shape, asic or _asic(constants.about.get("detector"), shape)))
        mask = _mask(group)
        part = [
            {"module": number, "asic": place, **_bits(mask[box], "mask", MaskBit), "quantities": {}}
            for place, box in enumerate(boxes)
        ]
        frames = _frames(group)
        if "constants_status" in group:
            status = _some(group["constants_status"], cells)
            for row, box in zip(part, boxes, strict=True):
                row |= _bits(status[..., *box], "status", Bit)
        for name, values, unit in planes(group, cells):
            units[name] = unit
            for row, box in zip(part, boxes, strict=True):
                row["quantities"][name] = _numbers(values[..., *box][..., mask[box] == 0])
        rows += [row | {"frames": frames} for row in part]
    summary = {"about": constants.about, "units": units, "rows": rows}
    return summary | {"histograms": _histograms(constants, rows, units, cells)}


def planes(group: h5py.Group, cells: int) -> Iterator[tuple[str, Floats, str]]:
    """Yield the numeric quantities of a module: name (per stage), (..., ss, fs) array, units."""
    shape = _shape(group)
    for name, dataset in group.items():
        if not isinstance(dataset, h5py.Dataset) or dataset.shape[-2:] != shape:
            continue
        if dataset.dtype.kind != "f":
            continue
        unit = str(dataset.attrs.get("units", ""))
        if dataset.ndim == 4 and len(dataset) in _PLANES:
            for stage, plane in zip(_PLANES[len(dataset)], _some(dataset, cells), strict=True):
                yield f"{name}_{stage}", plane, unit
        else:
            yield name, _some(dataset, cells), unit


def _some(dataset: h5py.Dataset, cells: int) -> NDArray[Any]:
    """Read some memory cells, evenly spaced."""
    if dataset.ndim < 3:
        return np.asarray(dataset[()])
    step = max(1, dataset.shape[-3] // cells)
    return np.asarray(dataset[..., ::step, :, :])


def images(
    constants: DetectorConstants, names: list[str], cells: int
) -> dict[str, dict[int, Floats]]:
    """Average quantities over memory cells: name -> module -> (ss, fs); NaN for masked pixels.

    ``bad`` is the fraction of a pixel's constants that have a status bit; 1 for masked pixels.
    """
    means: dict[str, dict[int, Floats]] = {name: {} for name in [*names, "bad"]}
    for number in constants.modules:
        group = constants.group(number)
        shape = _shape(group)
        mask = _mask(group)
        for name, values, _ in planes(group, cells):
            if name in names:
                means[name][number] = np.where(mask == 0, _mean(values), np.float32(np.nan))
        share = np.zeros(shape, np.float32)
        if "constants_status" in group:
            share = bad(_some(group["constants_status"], cells)).mean(axis=(0, 1), dtype=np.float32)
        means["bad"][number] = np.where(mask == 0, share, np.float32(1))
    return means


def _mean(values: Floats) -> Floats:
    """Return the mean of the finite values over all but the last two axes."""
    stack = values.reshape(-1, *values.shape[-2:])
    known = np.isfinite(stack)
    n = known.sum(axis=0)
    total = np.where(known, stack, 0).sum(axis=0, dtype=np.float64)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan).astype(np.float32)


def _shape(group: h5py.Group) -> Size:
    """Return the size of a module, the last two axes of every quantity of its pixels."""
    datasets = (item for item in group.values() if isinstance(item, h5py.Dataset))
    # The dead time of a photon counter is a number, its count rates are a list.
    dataset = next(item for item in datasets if item.ndim >= 2)
    return int(dataset.shape[-2]), int(dataset.shape[-1])


def _mask(group: h5py.Group) -> NDArray[np.uint32]:
    if "pixel_mask" not in group:
        return np.zeros(_shape(group), np.uint32)
    return np.asarray(group["pixel_mask"][()])


def _asic(detector: str | None, module: Size) -> Size:
    known = DETECTORS.get(str(detector))
    if known is None or module[0] % known.asic[0] or module[1] % known.asic[1]:
        return module
    return known.asic


def _boxes(module: Size, asic: Size) -> Iterator[tuple[slice, slice]]:
    for row in range(0, module[0], asic[0]):
        for column in range(0, module[1], asic[1]):
            yield slice(row, row + asic[0]), slice(column, column + asic[1])


def _bits(values: NDArray[np.uint32], name: str, bits: type[MaskBit] | type[Bit]) -> dict[str, Any]:
    """Return the fraction of values with any bad bit, and with each bit that occurs."""
    shares = {str(bit.name): float(((values & np.uint32(bit)) != 0).mean()) for bit in bits}
    wrong = values != 0 if name == "mask" else bad(values)
    return {
        {"mask": "masked", "status": "bad constants"}[name]: float(wrong.mean()),
        f"{name} bits": {bit: share for bit, share in shares.items() if share > 0},
    }


def _frames(group: h5py.Group) -> dict[str, list[int]]:
    """Return the fewest and the most frames of a memory cell in each measurement."""
    about = about_of(group)
    numbers = zip(about.get("measures", []), about.get("frames", []), strict=False)
    return {
        str(measure): [int(np.min(n, initial=2**62)), int(np.max(n, initial=0))]
        for measure, n in numbers
        if np.size(n)
    }


def _numbers(values: Floats) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    share = known.size / max(values.size, 1)
    if known.size == 0:
        return {"known": 0.0, "median": None, "spread": None, "percentiles": None}
    percentiles = np.percentile(known, PERCENTILES).astype(np.float64)
    median = float(np.median(known))
    spread = 1.4826 * float(np.median(np.abs(known - np.float32(median))))
    return {
        "known": share,
        "median": median,
        "spread": spread,
        "percentiles": percentiles.tolist(),
    }


def _histograms(
    constants: DetectorConstants, rows: list[dict[str, Any]], units: Mapping[str, str], cells: int
) -> dict[str, Any]:
    """Return the histogram of every quantity, over twice the range of the ASICs' percentiles."""
    ranges: dict[str, tuple[float, float]] = {}
    for name in units:
        ends = [
            (ends_of_asic["percentiles"][0], ends_of_asic["percentiles"][-1])
            for row in rows
            if (ends_of_asic := row["quantities"].get(name)) and ends_of_asic["percentiles"]
        ]
        if ends:
            low, high = (
                min(ends_of_asic[0] for ends_of_asic in ends),
                max(ends_of_asic[1] for ends_of_asic in ends),
            )
            margin = 0.5 * (high - low) or max(1e-3 * abs(high), 1e-6)
            ranges[name] = (low - margin, high + margin)
    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    outside = dict.fromkeys(ranges, 0)
    for number in constants.modules:
        group = constants.group(number)
        good = _mask(group) == 0
        for name, values, _ in planes(group, cells):
            if name not in ranges:
                continue
            taken = values[..., good]
            known = taken[np.isfinite(taken)]
            histogram = np.histogram(known, BINS, ranges[name])[0]
            counts[name] += histogram
            outside[name] += known.size - int(histogram.sum())
    return {
        name: {
            "range": list(ranges[name]),
            "counts": counts[name].tolist(),
            "outside": outside[name],
        }
        for name in ranges
    }
