"""Fast loop of the transform over the pixels of a block of frames, sixteen pixels at a time.

A strip of eight rows by a thousand pixels is processed on all frames of a block before the next
strip begins. The voxels of the strip then stay in the cache, and the counts of a pixel are summed
in a register until the pixel leaves a voxel.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel
from hklflow.simd.words import address, prefetch
from hklflow.transform.counts import LANES, count_at
from hklflow.transform.deal import MOST_DEALT, deal_2, deal_4, deal_8, deal_16, deal_32
from hklflow.transform.follow import EXCLUDED, NOWHERE, follow, follow_surrounded
from hklflow.transform.lanes_surroundings import Around, add_surroundings
from hklflow.transform.plain import deal

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]
I64 = NDArray[np.int64]

#: Number of rows of a tile and of a strip; number of groups of pixels along a tile, and along a
#: strip. A tile is processed or skipped as a whole.
ROWS = 8
TILE_GROUPS = 2
_STRIP_GROUPS = 64
#: Number of records after which the records are added to the volume.
_ENOUGH = 4096
#: Number of records ahead whose voxels are prefetched.
_AHEAD = 64
#: Largest number of frames in a block. A frame adds at most 2²² units, so that the sum of a pixel
#: in a voxel has at most 32 bits.
MOST_FRAMES = 512
#: Numbers of sub-samples to which `deal` can distribute photons.
DEALT = (1, 2, 4, 8, 16, 32)


class Steps(NamedTuple):
    """Used frames of a block, each with its sub-samples in angle.

    Attributes
    ----------
    frames : (n_used,) int64
        Index of each used frame in the block.
    to_voxel : (n_steps, 12) float32
        Rows of the matrices from q_lab to voxels, each followed by its offset.
    norm : (n_steps,) float32
        The frame's factor of N, divided by the number of sub-samples and by the unit of the norm.
    keys : (n_used, 2) uint32
        Seeds of the random numbers of each used frame.
    numbers : (n_used,) int64
        Number of each used frame in the scan.
    """

    frames: I64
    to_voxel: F32
    norm: F32
    keys: U32
    numbers: I64


class Pixels(NamedTuple):
    """Tables of the detector.

    Attributes
    ----------
    q : (sub-samples, 3, slow, fast) float32
        q_lab in 1/Å; sixteen more numbers follow this array in memory.
    norm : (pixels + 16,) float32
        The pixel's factor of N; 0: the pixel is not used.
    tail : (slow, 16) float32
        Norm of the last group of each row, 0 beyond the end of the row.
    live : (slow, groups) bool
        True if a group of sixteen pixels has a used pixel.
    """

    q: F32
    norm: F32
    tail: F32
    live: NDArray[np.bool_]


@kernel
def fill_norm(norm: NDArray[np.float64], pixels: Pixels) -> None:
    """Fill all tables except q from the norm of the pixels (slow, fast); they must be zero."""
    n_slow, n_fast = norm.shape
    last = n_fast - pixels.tail.shape[1] * (pixels.live.shape[1] - 1)
    for i in range(n_slow):
        row = pixels.norm[i * n_fast : (i + 1) * n_fast]
        for j in range(n_fast):
            row[j] = norm[i, j]
        for g in range(pixels.live.shape[1]):
            part = row[g * LANES : (g + 1) * LANES]
            largest = np.float32(0)
            for j in range(part.size):
                largest = max(largest, part[j])
            pixels.live[i, g] = largest > 0
        pixels.tail[i, :last] = row[n_fast - last :]


@kernel
def set_norm(norm: NDArray[np.float64], begin: int, end: int, pixels: Pixels) -> None:
    """Replace the norms of some rows; a pixel in use stays in use."""
    n_fast = norm.shape[1]
    last = n_fast - pixels.tail.shape[1] * (pixels.live.shape[1] - 1)
    for i in range(begin, end):
        row = pixels.norm[i * n_fast : (i + 1) * n_fast]
        for j in range(n_fast):
            row[j] = norm[i, j]
        pixels.tail[i, :last] = row[n_fast - last :]


class Sums(NamedTuple):
    """Flat memory of `Bricks`: sums of kept pixels, and sums of pixels in the artefact mask."""

    counts: U32
    norm: U32
    carry: U32
    counts_excluded: U32
    norm_excluded: U32
    carry_excluded: U32


class Part(NamedTuple):
    """Task of one thread.

    Attributes
    ----------
    window : (9,) int32
        Voxels of this thread, see `follow`; other threads add the voxels outside.
    tiles : (tiles along slow, along fast) bool
        True for tiles that may reach into the window.
    counted : (tiles along slow,) bool
        True for rows of tiles in which this thread counts the invalid pixels.
    """

    window: NDArray[np.int32]
    tiles: NDArray[np.bool_]
    counted: NDArray[np.bool_]


class _Records(NamedTuple):
    """Arrays for the records of `follow`; the last two are empty without a background."""

    voxel: U32
    counts: U32
    norm: U32
    expected: U32
    variance: U32


class _Tables(NamedTuple):
    """Number of steps, and addresses of the arrays that `follow` reads and writes.

    Addresses are used because Numba would count references to arrays at every call.
    """

    n_steps: int
    to_voxel: int
    step_norm: int
    window: int
    voxel: int
    counts: int
    norm: int
    inside: int
    n_expected: int
    frames: int
    expected: int
    variance: int


@kernel(inline="always")
def _add_norm(v: int, more: np.uint32, norm: U32, carry: U32) -> None:
    """Add to the norm of a voxel; overflows of 32 bits are rare and counted in ``carry``."""
    before = norm[2 * v + 1]
    after = np.uint32(before + more)
    norm[2 * v + 1] = after
    if after < before:
        carry[v] += np.uint32(1)
        carry[-1] = 1


@kernel
def _add(n: int, records: _Records, sums: Sums, around: Around | None) -> int:
    """Add records to the volumes; return 1 if the counts of a voxel exceed 32 bits, else 0."""
    if around is not None:
        # First, because records of excluded pixels are moved below.
        add_surroundings(
            n, records.voxel, records.expected, records.variance, around.sums, around.excluded
        )
    voxel, counts, norm = records.voxel, records.counts, records.norm
    overflow, marked = 0, 0
    memory = address(sums.counts)
    for r in range(n):
        v = np.int64(voxel[r])
        prefetch(memory + 8 * np.int64(voxel[r + _AHEAD] & np.uint32(EXCLUDED - 1)))
        if v >= EXCLUDED:
            # Added in a second loop: one loop with both volumes would be three times slower.
            voxel[marked], counts[marked], norm[marked] = voxel[r], counts[r], norm[r]
            marked += 1
            continue
        before = sums.counts[2 * v]
        after = np.uint32(before + counts[r])
        sums.counts[2 * v] = after
        overflow |= after < before
        _add_norm(v, norm[r], sums.norm, sums.carry)
    for r in range(marked):
        v = np.int64(voxel[r]) - EXCLUDED
        before = sums.counts_excluded[2 * v]
        after = np.uint32(before + counts[r])
        sums.counts_excluded[2 * v] = after
        overflow |= after < before
        _add_norm(v, norm[r], sums.norm_excluded, sums.carry_excluded)
    return overflow


@kernel
def _invalid(
    frames: NDArray[Any],
    begin: int,
    stride: int,
    row: int,
    group: int,
    steps: Steps,
    pixels: Pixels,
    limit: np.uint32,
) -> int:
    """Return the number of invalid pixel-frames of used pixels in a group.

    The row of the group begins at ``begin``.
    """
    n_fast = pixels.q.shape[3]
    left, right = group * LANES, min((group + 1) * LANES, n_fast)
    norm = pixels.norm[row * n_fast + left : row * n_fast + right]
    total = 0
    for z in steps.frames:
        values = frames[z * stride + begin + left : z * stride + begin + right]
        for j in range(values.size):
            # A negative number becomes a number that is too large.
            total += (np.uint32(values[j]) >= limit) & (norm[j] > 0)
    return total


@kernel
def _deal_group(
    like: NDArray[Any],
    values: int,
    offsets: int,
    first: int,
    n_pixels: int,
    steps: Steps,
    limit: np.uint32,
    seed: np.uint64,
    shares: U32,
) -> None:
    """Fill the shares (pixel sub-samples, steps, 16) of the sixteen pixels from ``first`` on.

    ``values`` and ``offsets`` are addresses, as in `follow`.
    """
    n_pix, n_steps = shares.shape[:2]
    n = steps.frames.size
    n_phi = n_steps // n
    n_sub = n_phi * n_pix
    places = np.empty(n_sub, np.int64)
    for s in range(n_sub):
        places[s] = address(shares) + 4 * LANES * ((s % n_pix) * n_steps + s // n_pix)
    keys, to, stride = address(steps.keys), address(places), 4 * LANES * n_phi
    if n_sub == 2:
        above = deal_2(like, values, offsets, n_phi, n, keys, first, limit, to, stride)
    elif n_sub == 4:
        above = deal_4(like, values, offsets, n_phi, n, keys, first, limit, to, stride)
    elif n_sub == 8:
        above = deal_8(like, values, offsets, n_phi, n, keys, first, limit, to, stride)
    elif n_sub == 16:
        above = deal_16(like, values, offsets, n_phi, n, keys, first, limit, to, stride)
    else:
        above = deal_32(like, values, offsets, n_phi, n, keys, first, limit, to, stride)
    if above == 0:
        return
    dealt = np.zeros(n_sub)
    for z in range(n):
        for lane in range(LANES):
            value = count_at(like, values, offsets, z * n_phi, lane)
            if value > MOST_DEALT and value < limit:
                place = steps.numbers[z] * n_pixels + first + lane
                deal(np.int64(value), place, seed, dealt)
                for s in range(n_sub):
                    shares[s % n_pix, z * n_phi + s // n_pix, lane] = np.uint32(dealt[s])


@kernel(inline="always")
def _follow(
    like: NDArray[Any],
    values: int,
    offsets: int,
    q: int,
    plane: int,
    norm: int,
    mask: int,
    mask_offsets: int,
    limit: np.uint32,
    to: _Tables,
    n: int,
    around: Around | None,
    weights: int,
    stride: int,
) -> int:
    """Call `follow`, or `follow_surrounded`, with q_lab in planes of ``plane`` bytes."""
    if around is None:
        return follow(
            like, values, offsets, to.n_steps, to.to_voxel, to.step_norm, q, q + plane,
            q + 2 * plane, norm, mask, mask_offsets, to.window, limit, to.voxel, to.counts,
            to.norm, n, to.inside,
        )  # fmt: skip
    return follow_surrounded(
        like, values, offsets, to.n_steps, to.to_voxel, to.step_norm, q, q + plane, q + 2 * plane,
        norm, mask, mask_offsets, to.window, limit, to.voxel, to.counts, to.norm, n, to.inside,
        to.n_expected, weights, stride, to.frames, to.expected, to.variance,
    )  # fmt: skip


@kernel
def add_block(
    frames: NDArray[Any],
    shape: tuple[int, int, int],
    stride: int,
    steps: Steps,
    pixels: Pixels,
    sums: Sums,
    part: Part,
    excluded: NDArray[np.uint8],
    limit: np.uint32,
    seed: np.uint64,
    first_row: int,
    around: Around | None,
) -> tuple[int, int, bool]:
    """Add a block of frames, or a band of its rows.

    Parameters
    ----------
    frames : flat contiguous array
        Integers of up to 32 bits that contain the frames.
    shape : (n, rows, fast)
        Shape of the band: up to `MOST_FRAMES` frames, and 16 or more pixels along fast. The rows of
        a frame are contiguous.
    stride : int
        Number of items from one frame to the next.
    steps, pixels, sums, part
        See these classes. The number of sub-samples must be one of `DEALT`.
    excluded : (n, slow, ceil(fast / 8)) uint8, or empty
        Artefact mask, bit-packed along fast.
    limit : uint32
        Smallest invalid count.
    seed : uint64
    first_row : int
        First row of the band on the detector, a multiple of `ROWS`.
    around : Around or None
        Expected background, summed over the same pixel-frames.

    Returns
    -------
    inside : int
        Number of sub-samples of pixel-frames that were added.
    invalid : int
        Number of invalid pixel-frames in the tiles that this thread counts.
    overflow : bool
        True if the counts of a voxel exceeded 32 bits; the sums are then wrong.
    """
    n_frames, n_rows, n_fast = shape
    n_used, n_steps, n_pix = steps.frames.size, steps.norm.size, pixels.q.shape[0]
    (n_slow, n_groups), n_phi = pixels.live.shape, n_steps // n_used
    plane, size, q_plane = n_slow * n_fast, frames.itemsize, 4 * n_slow * n_fast
    masked, row_bytes = excluded.size > 0, excluded.shape[2]
    # Counts are in the frames, in copies of the last group of a row, or in the shares.
    of_step = np.repeat(steps.frames, n_phi)
    in_frames = of_step * stride
    in_tail, in_shares = of_step * LANES, np.arange(n_steps) * LANES
    mask_in_frames, mask_in_tail = of_step * (n_slow * row_bytes), of_step * 2
    tail = np.zeros((n_frames, LANES), frames.dtype)
    tail_mask = np.zeros((n_frames, 2), np.uint8)
    shares = np.zeros((n_pix, n_steps, LANES), np.uint32)
    room = _ENOUGH + LANES * (n_steps + 2) + _AHEAD
    more = 0 if around is None else room
    records = _Records(
        np.empty(room, np.uint32),
        np.empty(room, np.uint32),
        np.empty(room, np.uint32),
        np.empty(more, np.uint32),
        np.empty(more, np.uint32),
    )
    weights = weights_stride = n_expected = factors = 0
    if around is not None:
        n_expected, factors = len(around.frames) - 1, address(around.frames)
    inside = np.zeros(3, np.int64)
    tables = _Tables(
        n_steps,
        address(steps.to_voxel),
        address(steps.norm),
        address(part.window),
        address(records.voxel),
        address(records.counts),
        address(records.norm),
        address(inside),
        n_expected,
        factors,
        address(records.expected),
        address(records.variance),
    )
    invalid, overflow = 0, 0
    for top in range(first_row, first_row + n_rows, ROWS):
        for left in range(0, n_groups, _STRIP_GROUPS):
            right = min(left + _STRIP_GROUPS, n_groups)
            for row in range(top, min(top + ROWS, first_row + n_rows)):
                i, n = row - first_row, 0
                for g in range(left, right):
                    if not pixels.live[row, g]:
                        continue
                    if not part.tiles[top // ROWS, g // TILE_GROUPS]:
                        if part.counted[top // ROWS]:
                            invalid += _invalid(
                                frames, i * n_fast, stride, row, g, steps, pixels, limit
                            )
                        continue
                    first = row * n_fast + g * LANES
                    values = address(frames) + size * (i * n_fast + g * LANES)
                    offsets = address(in_frames)
                    norm = address(pixels.norm) + 4 * first
                    if around is not None:
                        weights = address(around.weights) + 4 * first
                        weights_stride = 4 * around.weights.shape[1]
                    mask = address(excluded) + row * row_bytes + 2 * g
                    mask_offsets = address(mask_in_frames)
                    if (g + 1) * LANES > n_fast:
                        for z in range(n_frames):
                            at = z * stride + i * n_fast
                            tail[z, : n_fast - g * LANES] = frames[at + g * LANES : at + n_fast]
                            if masked:
                                tail_mask[z, : row_bytes - 2 * g] = excluded[z, row, 2 * g :]
                        values, offsets = address(tail), address(in_tail)
                        norm = address(pixels.tail) + 4 * LANES * row
                        if around is not None:
                            weights = address(around.tails) + 4 * LANES * row
                            weights_stride = 4 * LANES * n_slow
                        mask, mask_offsets = address(tail_mask), address(mask_in_tail)
                    mask = mask if masked else 0
                    q = address(pixels.q) + 4 * first
                    if n_phi * n_pix == 1:
                        n = _follow(
                            frames, values, offsets, q, q_plane, norm, mask, mask_offsets, limit,
                            tables, n, around, weights, weights_stride,
                        )  # fmt: skip
                    else:
                        _deal_group(
                            frames, values, offsets, first, plane, steps, limit, seed, shares
                        )
                        for sub in range(n_pix):
                            if n > _ENOUGH:
                                overflow |= _add(n, records, sums, around)
                                n = 0
                            values = address(shares) + 4 * LANES * n_steps * sub
                            n = _follow(
                                shares, values, address(in_shares), q + 3 * q_plane * sub,
                                q_plane, norm, mask, mask_offsets, np.uint32(NOWHERE), tables, n,
                                around, weights, weights_stride,
                            )  # fmt: skip
                    if inside[2] > 0:
                        inside[2] = 0
                        if part.counted[top // ROWS]:
                            invalid += _invalid(
                                frames, i * n_fast, stride, row, g, steps, pixels, limit
                            )
                    if n > _ENOUGH:
                        overflow |= _add(n, records, sums, around)
                        n = 0
                overflow |= _add(n, records, sums, around)
    return inside[0], invalid, overflow != 0 or inside[1] > 0
