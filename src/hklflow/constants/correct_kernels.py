"""Compiled correction of frames, one pixel at a time."""

import numpy as np

from hklflow.simd.jit import kernel

#: Stage of a pixel whose digital output is invalid.
NO_STAGE = 255


@kernel
def stages_of_codes(code, table, stage):  # type: ignore[no-untyped-def]
    """Write the gain stage (n, ss, fs) from gain bits; ``table`` has the stage of each code."""
    flat, out = code.reshape(-1), stage.reshape(-1)
    last = table.size - 1
    for k in range(flat.size):
        out[k] = table[min(np.int64(flat[k]), last)]


@kernel
def stages_of_levels(level, threshold, stage):  # type: ignore[no-untyped-def]
    """Write the gain stage (n, ss, fs) from analogue levels; ``threshold`` is (2, ss, fs).

    If the threshold between medium and low is unknown, stage high is still recognised.
    """
    for z in range(level.shape[0]):
        for i in range(level.shape[1]):
            for j in range(level.shape[2]):
                low, high = threshold[0, i, j], threshold[1, i, j]
                value = level[z, i, j]
                if value <= low:  # not if it is NaN
                    stage[z, i, j] = 0
                elif low == low and high == high:
                    stage[z, i, j] = 1 + (value > high)
                else:
                    stage[z, i, j] = NO_STAGE


@kernel(error_model="numpy")
def photons(  # type: ignore[no-untyped-def]
    analog, stage, offset, factor, shift, group, top, step, overload, out, numbers
):
    """Write the photons (n, ss, fs) and count the pixels of each outcome.

    Parameters
    ----------
    analog, stage : (n, ss, fs) arrays
    offset, factor : (3, ss, fs) float32 arrays
        ADU, and photons per ADU; NaN for a stage that cannot be used. A pixel that is usable in
        stage high but neither in its present stage nor in a later one is saturated.
    shift : (n, groups) array
        Common mode that is subtracted from values of stage high, ADU.
    group : (ss, fs) array
        Group of each pixel.
    top : float
        Value at which the output is saturated, ADU.
    step : float
        Photons are rounded to multiples of this power of two; 0: not rounded.
    overload : float
        Value of saturated pixels.
    out : (n, ss, fs) float32 array
    numbers : (5,) int64 array
        Counts of pixels in stages high, medium, low, saturated, and without a value; incremented.
    """
    scale = 1.0 / step if step > 0 else 0.0
    for z in range(analog.shape[0]):
        for i in range(analog.shape[1]):
            for j in range(analog.shape[2]):
                s = stage[z, i, j]
                k = factor[s, i, j] if s < 3 else np.float32(np.nan)
                a = float(analog[z, i, j])
                o = float(offset[s, i, j]) if s < 3 else np.nan
                if not (k == k and o == o):
                    beyond = 0 < s < 3 and factor[0, i, j] == factor[0, i, j]
                    for later in range(s, 3):
                        beyond = beyond and factor[later, i, j] != factor[later, i, j]
                    out[z, i, j] = overload if beyond else np.nan
                    numbers[3 if beyond else 4] += 1
                    continue
                if a <= 0.0 or a >= top:
                    # One end of the converter's range is saturation; charge cannot reach the other
                    # end.
                    saturated = (a >= top) == (k > 0)
                    out[z, i, j] = overload if saturated else np.nan
                    numbers[3 if saturated else 4] += 1
                    continue
                if s == 0:
                    a -= shift[z, group[i, j]]
                value = (a - o) * float(k)
                out[z, i, j] = np.rint(value * scale) * step if step > 0 else value
                numbers[s] += 1


@kernel(error_model="numpy")
def common_modes(analog, stage, offset, noise, reach, boxes, least, result):  # type: ignore[no-untyped-def]
    """Find the shift (n, boxes) of stage high in ADU; NaN where too few pixels are dark.

    Parameters
    ----------
    analog, stage : (n, ss, fs) arrays
    offset, noise : (ss, fs) arrays
        Values of stage high, ADU; NaN for pixels not used.
    reach : (ss, fs) array
        Half a photon, ADU.
    boxes : (boxes, 4) array
        First and last (exclusive) row and column.
    least : float
        Fraction of the box's usable pixels that must be dark.
    """
    for z in range(analog.shape[0]):
        for b in range(boxes.shape[0]):
            i0, i1, j0, j1 = boxes[b]
            room = (i1 - i0) * (j1 - j0)
            value, window, half = np.empty(room), np.empty(room), np.empty(room)
            n = usable = 0
            for i in range(i0, i1):
                for j in range(j0, j1):
                    if not (offset[i, j] == offset[i, j] and noise[i, j] > 0):
                        continue
                    usable += 1
                    if stage[z, i, j] != 0:
                        continue
                    value[n] = analog[z, i, j] - offset[i, j]
                    window[n] = min(2.0 * noise[i, j], reach[i, j])
                    half[n] = reach[i, j]
                    n += 1
            result[z, b] = np.nan
            if n == 0 or n < least * usable:
                continue
            # Photons only add: the lowest values belong to dark pixels.
            rank = n // 20
            c, used = np.partition(value[:n], rank)[rank], 0
            for _ in range(50):
                total, used = 0.0, 0
                for m in range(n):
                    if abs(value[m] - c) < window[m]:
                        total += value[m]
                        used += 1
                if used == 0:
                    break
                moved = total / used - c
                c += moved
                if abs(moved) < 1e-3 * window[0]:
                    break
            # A shift of more than half a photon cannot be distinguished from photons.
            if used >= max(least * usable, 1.0) and abs(c) < half[:n].mean():
                result[z, b] = c
