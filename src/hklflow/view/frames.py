"""Answers to the browser about rotations: frames, masks, spots, and peaks in reciprocal space.

Only what is shown is read: the chosen frames, and of large frames as many blocks of pixels as fit
on the screen.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.images.masks import MaskBit
from hklflow.results.rotation import ORIENTATION, PRODUCTS, MeasuredRotation
from hklflow.view.catalogue import Catalogue, Item
from hklflow.view.wire import Query, arrays, json, number, numbers, one_state, states, text

_MOST_FRAMES = 200  # that one request may read
_MOST_PIXELS = 4096  # along each side, that one answer may have
# Kinds of pixels; of a block of pixels the smallest is shown.
_GOOD, _EXCLUDED, _MASKED, _NO_PIXEL = range(4)
_NO_PIXELS = np.uint32(MaskBit.GAP | MaskBit.VIRTUAL)


def rotation(catalogue: Catalogue, query: Query) -> bytes:
    """Return number and size of the frames, angles, and rings of resolution."""

    def of(measured: MeasuredRotation) -> bytes:
        scan = measured.scan
        axis = measured.geometry.goniometer
        rings = [
            {"d": d, "slow": _known(points[:, 0]), "fast": _known(points[:, 1])}
            for d, points in measured.rings().items()
        ]
        return json(
            {
                "frames": measured.n_frames,
                "shape": measured.shape,
                "first": scan.first,
                "axis": axis.names[axis.scan],
                "start": np.degrees(scan.rotation.scan.start),
                "step": np.degrees(scan.rotation.scan.step),
                "wavelength": measured.geometry.beam.wavelength,
                "refined": measured.orientation is not None,
                "most": _MOST_FRAMES,
                "rings": rings,
            }
        )

    return _of_rotation(catalogue, query, of)


def frame(catalogue: Catalogue, query: Query) -> bytes:
    """Return counts and masks of a window of the shown frames.

    Blocks of pixels have the largest count, with ``hide`` of the pixels that are not masked, so
    that no spot is lost. A block is masked if all of its pixels are.
    """
    everything, hide = bool(query.get("all")), bool(query.get("hide"))
    how: Literal["sum", "maximum"] = "maximum" if query.get("how") == "maximum" else "sum"
    if query.get("how", how) != how:
        raise HklflowError(f"how: {query['how']!r} is neither sum nor maximum; correct it")
    first, n = int(number(query, "first", 0.0)), int(number(query, "n", 1.0))
    if n > _MOST_FRAMES and not everything:
        raise HklflowError(f"{n} frames at once are too many; choose at most {_MOST_FRAMES}")
    most = int(min(max(number(query, "most", 1000.0), 1), _MOST_PIXELS))

    def of(measured: MeasuredRotation) -> bytes:
        n_slow, n_fast = measured.shape
        low, high, left, right = (
            map(int, numbers(query, "window", 4)) if query.get("window") else (0, n_slow, 0, n_fast)
        )
        if not (0 <= low < high <= n_slow and 0 <= left < right <= n_fast):
            raise HklflowError(
                f"window: {low} to {high} and {left} to {right} are not within {n_slow} x {n_fast} "
                "pixels; correct it"
            )
        image = measured.overall(how) if everything else measured.image(first, n, how)
        kind = np.where(measured.mask, _MASKED, _GOOD).astype(np.uint8)
        kind[(measured.mask & _NO_PIXELS) != 0] = _NO_PIXEL
        if not everything:
            kind[(kind == _GOOD) & measured.excluded(first, n)] = _EXCLUDED
        counts = image.values
        if hide:
            counts = np.where(kind <= _EXCLUDED, counts, np.nan)
        window = (slice(low, high), slice(left, right))
        size = -(-max(high - low, right - left) // most)
        about = {
            "window": [low, high, left, right],
            "size": size,
            "used": image.attrs["frames"],
            "sum of counts": float(np.nansum(image.values)),
        }
        found = {
            "counts": _blocks(counts[window], size, np.fmax),
            "kind": _blocks(kind[window], size, np.minimum),
        }
        return arrays({}, about, found)

    return _of_rotation(catalogue, query, of)


def spots(catalogue: Catalogue, query: Query) -> bytes:
    """Return the found peaks and the predicted reflections of the shown frames.

    Their centres are in these frames or up to ``within`` frames away. A found peak that covers more
    frames is shown on all of them.
    """
    first, n = number(query, "first", 0.0), number(query, "n", 1.0)
    within = number(query, "within", 0.0)

    def of(measured: MeasuredRotation) -> bytes:
        chosen = {}
        for kind, table in (("found", measured.peaks), ("predicted", measured.predicted)):
            centre = table.frame.values
            # Half of the frames on which the peak exceeds the background.
            half = table.n_frames.values / 2 if kind == "found" else 0.0
            reach = np.maximum(half, within)
            near = (centre >= first - reach) & (centre < first + n + reach)
            if query.get("all"):
                near[:] = True
            for name, column in table.data_vars.items():
                chosen[f"{kind}_{name}"] = column.values[near]
        return arrays({}, {"refined": measured.orientation is not None}, chosen)

    return _of_rotation(catalogue, query, of)


def pixel(catalogue: Catalogue, query: Query) -> bytes:
    """Return d, Q, 2θ, hkl, and the reasons of the mask, of a place in the frames."""
    place = [number(query, name) for name in ("frame", "slow", "fast")]

    def of(measured: MeasuredRotation) -> bytes:
        q = measured.geometry.q_crystal(*place)
        length, k = float(np.linalg.norm(q)), measured.geometry.beam.k
        row, column = int(place[1]), int(place[2])
        n_slow, n_fast = measured.shape
        inside = 0 <= row < n_slow and 0 <= column < n_fast
        bits = int(measured.mask[row, column]) if inside else 0
        return json(
            {
                "q": length,
                "d": 2 * np.pi / length if length else None,
                "two_theta": np.degrees(2 * np.arcsin(min(length / (2 * k), 1.0))),
                "hkl": None if measured.orientation is None else measured.hkl(*place),
                "reasons": [bit.label for bit in MaskBit if bits & bit],
            }
        )

    return _of_rotation(catalogue, query, of)


def peaks(catalogue: Catalogue, query: Query) -> bytes:
    """Return all found peaks with Q and hkl, and the lattice."""
    from hklflow.stages.refine import Settings

    def of(measured: MeasuredRotation) -> bytes:
        lattice: dict[str, Any] = {"refined": False}
        if (found := measured.orientation) is not None:
            lattice = {
                "refined": True,
                "ub": found.ub,
                "cell": found.cell,
                "cell_sigma": found.cell_sigma,
                "space_group": found.space_group,
            }
        lattice["tolerance"] = Settings().hkl_tolerance
        columns = {str(n): column.values for n, column in measured.peaks.data_vars.items()}
        return arrays({}, lattice, columns)

    return _of_rotation(catalogue, query, of)


ANSWERS: dict[str, Callable[[Catalogue, Query], bytes]] = {
    "rotation": rotation,
    "frame": frame,
    "spots": spots,
    "pixel": pixel,
    "peaks": peaks,
}


def _of_rotation(
    catalogue: Catalogue, query: Query, answer: Callable[[MeasuredRotation], bytes]
) -> bytes:
    """Return an answer from one state of the products of a rotation."""
    item = catalogue.find(text(query, "id"))
    paths = _products(item)

    def read() -> bytes:
        return answer(_measured(item.path, catalogue.folder, states(paths)))

    return one_state(paths, f"rotation {item.title}", read)


@lru_cache(maxsize=4)
def _measured(folder: Path, base: Path, state: object) -> MeasuredRotation:
    """Return a rotation; the peaks and predicted spots of the last few are kept."""
    del state  # a replaced product makes another rotation
    return MeasuredRotation(folder, base)


def _products(item: Item) -> list[Path]:
    """Return the products of a rotation.

    Raises
    ------
    HklflowError
        If one of them is a link out of the folder of the scan.
    """
    scan = item.path.parent
    paths = [*(item.path / name for name in PRODUCTS), scan / ORIENTATION]
    inside = scan.resolve()
    for path in paths:
        if not path.resolve().is_relative_to(inside):
            raise HklflowError(
                f"{path.name} of {item.title} is a link to another folder, which is not shown; "
                "run `snakemake` to make it again"
            )
    return paths


def _blocks(values: NDArray[Any], size: int, combine: np.ufunc) -> NDArray[Any]:
    """Return one value for each block of size x size pixels; the last blocks may be smaller."""
    found: NDArray[Any] = values[::size, ::size].copy()
    for slow in range(size):
        for fast in range(size):
            part = values[slow::size, fast::size]
            inside = found[: len(part), : part.shape[1]]
            combine(inside, part, out=inside)
    return found


def _known(values: NDArray[np.float64]) -> list[float | None]:
    """Return values for JSON, which has no NaN."""
    return [float(value) if np.isfinite(value) else None for value in values]
