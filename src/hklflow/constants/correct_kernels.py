"""Compiled parts of the correction of frames, one pixel at a time."""

import numpy as np

from hklflow.simd.jit import kernel

#: What is no stage of gain.
NO_STAGE = 255


@kernel
def stages_of_codes(code, table, stage):  # type: ignore[no-untyped-def]
    """Stage of gain (n, ss, fs) from gain bits; ``table`` has one stage for each code."""
    flat, out = code.reshape(-1), stage.reshape(-1)
    last = table.size - 1
    for k in range(flat.size):
        out[k] = table[min(np.int64(flat[k]), last)]


@kernel
def stages_of_levels(level, threshold, stage):  # type: ignore[no-untyped-def]
    """Stage of gain (n, ss, fs) from analogue levels; ``threshold`` is (2, ss, fs).

    Without the threshold between medium and low, levels below the other one still tell stage high.
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
    """Fill in photons (n, ss, fs) and count what became of the pixels.

    Parameters
    ----------
    analog, stage : (n, ss, fs) arrays
    offset, factor : (3, ss, fs) float32 arrays
        ADU, and photons per ADU; NaN where a stage is not to be used. A pixel with stage high in
        a stage from which on there are none has more charge than it can measure: it is saturated.
    shift : (n, groups) array
        ADU to be taken from the values of stage high.
    group : (ss, fs) array
        Group of each pixel.
    top : float
        ADU from which a value is not to be believed.
    step : float
        Photons are multiples of this power of two; 0: as they are.
    overload : float
        Value of saturated pixels.
    out : (n, ss, fs) float32 array
    numbers : (5,) int64 array
        Added to: pixels in stages high, medium, low, saturated ones, and those without a value.
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
                    # The converter's end on the side of much charge, or the other one.
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
        Of stage high, ADU; NaN where it is not to be used.
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
            # Photons only add: the lowest values are those of dark pixels.
            at = n // 20
            c, used = np.partition(value[:n], at)[at], 0
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
            # More than half a photon could not be told from photons.
            if used >= max(least * usable, 1.0) and abs(c) < half[:n].mean():
                result[z, b] = c
