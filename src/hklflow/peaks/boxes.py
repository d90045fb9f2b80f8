"""Cut boxes of voxels around a peak from the frame store, and compute their moments."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.images.frame_store import COLUMNS, FLAGGED, ROWS, Store
from hklflow.peaks.strips import STRIP
from hklflow.peaks.strong import listed
from hklflow.peaks.table import PeakFlag
from hklflow.simd.control import Variable, span
from hklflow.simd.define import LIKE, word
from hklflow.simd.jit import kernel
from hklflow.simd.kinds import BOOL, U8
from hklflow.simd.kinds import F64 as DOUBLE
from hklflow.simd.kinds import I64 as INTEGER
from hklflow.simd.lanes import any_lane, splat
from hklflow.simd.memory import load, store
from hklflow.simd.value import Value, constant, convert, select

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


@word(LIKE, *[INTEGER] * 6, DOUBLE, DOUBLE, returns=BOOL)
def _copy_row(
    like: Value, line: Value, kept: Value, out: Value, kind: Value, n: Value, columns: Value,
    top: Value, saturation: Value,
) -> Value:  # fmt: skip
    """Copy the valid counts of a row and classify its pixels; return True if one reaches `top`.

    `like` is a number of the type of the narrow counts. ``line``, ``kept``, ``out`` and ``kind``
    are the addresses of narrow counts, mask, counts and kinds. `n` is a multiple of `STRIP`;
    counts and kinds from `columns` on become 0.
    """
    numbers = constant(INTEGER, range(STRIP), STRIP)
    top, saturation = splat(top, STRIP), splat(saturation, STRIP)
    large = Variable(constant(BOOL, [False] * STRIP, STRIP))
    none, valid, full = (constant(U8, number, STRIP) for number in (0, VALID, VALID | OVERLOAD))
    with span(n, step=STRIP) as x:
        counts = convert(load(like.kind, line, x, STRIP), DOUBLE)
        good = (load(like.kind, kept, x, STRIP) != 0) & (numbers < splat(columns - x, STRIP))
        large.value = large.value | (counts >= top)
        store(select(good, counts, 0.0), out, x)
        store(select(good, select(counts >= saturation, full, valid), none), kind, x)
    return any_lane(large.value)


@kernel
def _mark_strong(places, first, width, columns, kind):  # type: ignore[no-untyped-def]
    """Mark strong voxels in a frame of a box (slow, fast) with `FOREIGN`.

    ``places`` are ascending flat indices in the image, ``first`` is the index of the first voxel of
    the box. The box has `columns` columns without padding.
    """
    rows, y = kind.shape[0], 0
    for k in range(np.searchsorted(places, first), places.size):
        x = places[k] - first - y * width
        while x >= width:
            x -= width
            y += 1
        if y >= rows:
            break
        if x < columns:
            kind[y, x] |= FOREIGN


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
    counts, kind = np.empty((nz, ny, across)), np.empty((nz, ny, across), np.uint8)
    level = np.empty(nz)
    left, top, saturation = COLUMNS + low[2], scene.top, scene.saturation
    for z in range(nz):
        slot = (low[0] + z) % slots
        quiet = store.quiet[slot, 0]
        level[z] = quiet / store.quiet[slot, 1] if quiet > 0.0 else 1.0
        look = store.flagged[slot] > 0
        for y in range(ny):
            row = ROWS + low[1] + y
            out, what = counts[z, y], kind[z, y]
            offset = row * store.keep.strides[0] + scene.size * left
            line = store.counts.ctypes.data + slot * store.counts.strides[0] + offset
            kept, to, into = store.keep.ctypes.data + offset, out.ctypes.data, what.ctypes.data
            if scene.size == 1:
                large = _copy_row(np.uint8(0), line, kept, to, into, across, nx, top, saturation)
            elif scene.size == 2:
                large = _copy_row(np.uint16(0), line, kept, to, into, across, nx, top, saturation)
            else:
                large = _copy_row(np.float32(0), line, kept, to, into, across, nx, top, saturation)
            if not look and not large:
                continue
            for x in range(nx):
                # Pixels that are not kept have 0 counts and are not valid.
                if what[x] != 0 and (look or out[x] >= top):
                    place, narrow = row * width + left + x, out[x]
                    value = listed(
                        store.odd_at, store.odd_value, slot, store.odd_number[slot], place, narrow
                    )
                    counts[z, y, x] = value if value > FLAGGED else 0.0
                    kind[z, y, x] = 0
                    if value > FLAGGED:
                        kind[z, y, x] = VALID if value < scene.saturation else VALID | OVERLOAD
        strong = scene.strong_at[slot, : scene.strong_number[slot]]
        _mark_strong(strong, (ROWS + low[1]) * width + left, width, nx, kind[z])
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
