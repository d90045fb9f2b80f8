"""Cut boxes of voxels around a peak from the frame store, and compute their moments."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.images.frame_store import COLUMNS, FLAGGED, ROWS, Store
from hklflow.peaks.strips import STRIP
from hklflow.peaks.strong import listed
from hklflow.peaks.table import PeakFlag
from hklflow.simd.jit import kernel

#: Bits that classify a voxel.
VALID, FOREIGN, OVERLOAD, OWN = 1, 2, 4, 8
_RING = 20  # smallest number of voxels for the background of the moments
_MOMENTS, _FIT_FAILED = int(PeakFlag.MOMENTS), int(PeakFlag.FIT_FAILED)


class Scene(NamedTuple):
    """Frames and strong voxels that a fit can use.

    The type of the counts is not a part of the type of this class. Otherwise the fit, which is most
    of the code, would be compiled again for each type.

    Attributes
    ----------
    store
        Frame store with `counts` and `keep` as bytes, see `as_bytes`.
    size
        Bytes of a count: 1 or 2 for an integer, 4 for a float.
    strong_at
        (slots, n) flat indices of the strong voxels of each frame, ascending.
    strong_number
        (slots) number of strong voxels of each frame.
    shape
        (2,) shape of the detector (slow, fast).
    top
        Largest counts that the narrow type of the store holds exactly.
    saturation
        Counts above which a voxel is excluded from the fit.
    """

    store: Store
    size: int
    strong_at: NDArray[np.int64]
    strong_number: NDArray[np.int64]
    shape: NDArray[np.int64]
    top: float
    saturation: float


def as_bytes(store: Store) -> Store:
    """Return the store with `counts` and `keep` viewed as bytes."""
    return store._replace(counts=store.counts.view(np.uint8), keep=store.keep.view(np.uint8))


@kernel
def clip_box(low, high, frames, shape):  # type: ignore[no-untyped-def]
    """Limit a box (low and high corner, in place) to the frames and the detector."""
    for a in range(3):
        least, most = (frames[0], frames[1]) if a == 0 else (0, shape[a - 1])
        low[a] = max(low[a], least)
        high[a] = max(min(high[a], most), low[a])


@kernel
def _copy_row(line, kept, saturation, counts, kind):  # type: ignore[no-untyped-def]
    """Copy the valid counts of a row and classify its voxels; return the largest narrow count."""
    largest = line.dtype.type(0)
    for x in range(line.size):
        largest = max(largest, line[x])
        value = float(line[x])
        good = kept[x] != 0
        counts[x] = value if good else 0.0
        kind[x] = np.uint8(good) * (np.uint8(VALID) | (np.uint8(value >= saturation) << 2))
    return float(largest)


@kernel
def cut_box(scene, low, high, at):  # type: ignore[no-untyped-def]
    """Cut the box between two corners.

    Parameters
    ----------
    scene : Scene
    low, high : (3,) int64
        (frame, slow, fast) of the first voxel, and of the last voxel plus 1.
    at : (n, 3)
        Strong voxels of the blob.

    Returns
    -------
    counts : (frames, slow, fast) float64
        Counts; 0 without a measurement. Columns are padded to a multiple of `STRIP`.
    kind : (frames, slow, fast) uint8
        Bits `VALID`, `FOREIGN` (a strong voxel of another blob), `OVERLOAD`, `OWN`.
    level : (frames,)
        Relative background of each frame.
    """
    store = scene.store
    slots, _, width = store.counts.shape
    width //= scene.size
    nz, ny, nx = high[0] - low[0], high[1] - low[1], high[2] - low[2]
    across = -(-nx // STRIP) * STRIP
    counts = np.zeros((nz, ny, across))
    kind = np.zeros((nz, ny, across), np.uint8)
    level = np.empty(nz)
    left = COLUMNS + low[2]
    for z in range(nz):
        slot = (low[0] + z) % slots
        quiet = store.quiet[slot, 0]
        level[z] = quiet / store.quiet[slot, 1] if quiet > 0.0 else 1.0
        look = store.flagged[slot] > 0
        for y in range(ny):
            row = ROWS + low[1] + y
            part = slice(scene.size * left, scene.size * (left + nx))
            line, kept = store.counts[slot, row, part], store.keep[row, part]
            out, what = counts[z, y], kind[z, y]
            if scene.size == 1:
                largest = _copy_row(line, kept, scene.saturation, out, what)
            elif scene.size == 2:
                line_16, kept_16 = line.view(np.uint16), kept.view(np.uint16)
                largest = _copy_row(line_16, kept_16, scene.saturation, out, what)
            else:
                line_32, kept_32 = line.view(np.float32), kept.view(np.float32)
                largest = _copy_row(line_32, kept_32, scene.saturation, out, what)
            if not look and largest < scene.top:
                continue
            for x in range(nx):
                # Pixels that are not kept have 0 counts and are not valid.
                if what[x] != 0 and (look or out[x] >= scene.top):
                    place, narrow = row * width + left + x, out[x]
                    value = listed(
                        store.odd_at, store.odd_value, slot, store.odd_number[slot], place, narrow
                    )
                    counts[z, y, x] = value if value > FLAGGED else 0.0
                    kind[z, y, x] = 0
                    if value > FLAGGED:
                        kind[z, y, x] = VALID if value < scene.saturation else VALID | OVERLOAD
        n = scene.strong_number[slot]
        places = scene.strong_at[slot, :n]
        first = np.searchsorted(places, (ROWS + low[1]) * width)
        for k in range(first, n):
            y, x = places[k] // width - ROWS - low[1], places[k] % width - COLUMNS - low[2]
            if y >= ny:
                break
            if 0 <= x < nx:
                kind[z, y, x] |= FOREIGN
    if nz > 0:
        level /= max(level.mean(), 1e-30)
    for k in range(at.shape[0]):
        z, y, x = at[k, 0] - low[0], at[k, 1] - low[1], at[k, 2] - low[2]
        if 0 <= z < nz and 0 <= y < ny and 0 <= x < nx:
            kind[z, y, x] = (kind[z, y, x] & (VALID | OVERLOAD)) | OWN
    return counts, kind, level


@kernel
def usable(kind):  # type: ignore[no-untyped-def]
    """Return 1.0 for voxels that the fit may use, else 0.0."""
    out = np.zeros(kind.shape)
    flat, from_ = out.reshape(-1), kind.reshape(-1)
    for k in range(flat.size):
        flat[k] = 1.0 if (from_[k] & (VALID | FOREIGN | OVERLOAD)) == VALID else 0.0
    return out


@kernel
def _peak_and_ring(kind, use, low, at):  # type: ignore[no-untyped-def]
    """Return a mask of the strong voxels of this peak and the pixels next to them."""
    peak = np.zeros(kind.shape, np.bool_)
    nz, ny, nx = kind.shape
    for k in range(at.shape[0]):
        z, y, x = at[k, 0] - low[0], at[k, 1] - low[1], at[k, 2] - low[2]
        if not (0 <= z < nz and 0 <= y < ny and 0 <= x < nx):
            continue
        for a in range(max(y - 1, 0), min(y + 2, ny)):
            for b in range(max(x - 1, 0), min(x + 2, nx)):
                peak[z, a, b] = use[z, a, b] > 0.0
    return peak


@kernel
def moments(counts, kind, level, extra, low, at, start, gain):  # type: ignore[no-untyped-def]
    """Compute moments of the counts above background on the strong voxels and their neighbours.

    The variance of the centroid is ``sum var(n) (x - <x>)² / I²``, including the background.

    Returns
    -------
    flag, centre, var_centre, width, intensity, var_intensity, background
    """
    use = usable(kind)
    peak = _peak_and_ring(kind, use, low, at)
    nz, ny, nx = counts.shape
    ring, flat, number = 0.0, 0.0, 0
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if use[z, y, x] > 0.0 and not peak[z, y, x] and not kind[z, y, x] & OWN:
                    ring += counts[z, y, x] - extra[z, y, x]
                    flat += level[z]
                    number += 1
    background = max(ring / flat, 0.0) if number >= _RING else start[7]
    total, variance = 0.0, 0.0
    first, second, noise = np.zeros(3), np.zeros(3), np.zeros((3, 3))
    least, most, place = np.full(3, np.inf), np.full(3, -np.inf), np.empty(3)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                if not peak[z, y, x]:
                    continue
                excess = counts[z, y, x] - extra[z, y, x] - background * level[z]
                weight = gain * max(counts[z, y, x], 1.0)
                total += excess
                variance += weight
                place[0], place[1], place[2] = z + 0.5, y + 0.5, x + 0.5
                for a in range(3):
                    first[a] += excess * place[a]
                    second[a] += excess * place[a] ** 2
                    noise[0, a] += weight
                    noise[1, a] += weight * place[a]
                    noise[2, a] += weight * place[a] ** 2
                    least[a], most[a] = min(least[a], place[a]), max(most[a], place[a])
    if total > 3.0 * np.sqrt(max(variance, 1.0)):
        centre = first / total
        spread = second / total - centre**2
        if np.all(centre > least - 0.5) and np.all(centre < most + 0.5):
            # The spread includes the extent of a voxel, which is subtracted. For a few noisy voxels
            # the difference can be negative.
            width = np.sqrt(np.maximum(spread - 1.0 / 12.0, 0.1**2))
            about = noise[2] - 2.0 * centre * noise[1] + centre**2 * noise[0]
            var_centre = np.maximum(about / total**2, 1e-6)
            return _MOMENTS, centre + low, var_centre, width, total, variance, background
    width = np.empty(3)
    for a in range(3):
        width[a] = max(np.std(at[:, a].astype(np.float64)), 0.3)
    return (
        _FIT_FAILED, start[1:4].copy(), width**2, width, total, max(variance, 1.0), background
    )  # fmt: skip
