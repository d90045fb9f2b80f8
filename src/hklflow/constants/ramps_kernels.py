"""Compiled loops of `ramps`: stage of each frame of a pixel, and the line through each stage."""

import math

import numpy as np

from hklflow.simd.jit import kernel

# Least separation of the levels of two stages, in standard deviations.
_APART = 6.0
# Values beyond this many robust standard deviations are left out of a line.
_CLIP = 5.0
# Standard deviation of the rounding to integers, rounded up.
_ROUNDING = 0.3
# Least number of frames of a level.
_LEVEL = 5


@kernel(error_model="numpy")
def fit_pixels(  # type: ignore[no-untyped-def]
    x, analog, levels, limits, is_stage, fit, values, counts, curved
):
    """Fill values (5, 3, pixels), counts (3, 3, pixels), curved (3, pixels); see `ramps.Fit`."""
    stages, trim, settling, linearity, floor, ceiling, least = fit
    n = len(x)
    g = np.empty(n, np.int8)
    xs, ys, es = np.empty(n), np.empty(n), np.empty(n)
    for p in range(len(analog)):
        _stages(levels[p], limits[p], is_stage, stages, g)
        first, second = _switch(g, 1), _switch(g, 2)
        edges = (0, first, max(second, first), n)
        for stage in range(stages):
            start, stop = edges[stage], edges[stage + 1]
            inside = 0
            for i in range(start, stop):
                inside += g[i] == stage
            counts[1, stage, p] = inside
            head = math.ceil(trim * inside) if stage > 0 else 0
            tail = math.ceil(trim * inside) if stop < n else 0
            m, count = 0, 0
            for i in range(start, stop):
                if g[i] != stage:
                    continue
                count += 1
                value = analog[p, i]
                if value < floor or value > ceiling:
                    counts[2, stage, p] += 1
                elif head < count <= inside - tail:
                    xs[m] = x[i]
                    ys[m] = value
                    es[m] = 0.0
                    if settling > 0 and stage > 0:
                        es[m] = math.exp(-(x[i] - x[start]) / settling)
                    m += 1
            if m >= least:
                line, points, bent = _line(
                    xs[:m], ys[:m], es[:m], settling > 0 and stage > 0, linearity
                )
                counts[0, stage, p] = points
                if points >= least:
                    for k in range(5):
                        values[k, stage, p] = line[k]
                    curved[stage, p] = bent
            else:
                counts[0, stage, p] = m


@kernel(error_model="numpy")
def _stages(levels, limits, is_stage, stages, g):  # type: ignore[no-untyped-def]
    """Write the stage of each frame; -1 if the gain bits are invalid."""
    if is_stage:
        for i in range(len(g)):
            g[i] = levels[i] if levels[i] < 3 else -1
        return
    high, low = limits
    if math.isnan(high) or (stages > 2 and math.isnan(low)):
        high, low = _split(levels, stages)
    for i in range(len(g)):
        g[i] = (levels[i] > high) + (levels[i] > low)


@kernel(error_model="numpy")
def _split(levels, stages):  # type: ignore[no-untyped-def]
    """Return thresholds in the widest gaps between levels; infinite if there is no second level."""
    ordered = levels.astype(np.float64)
    ordered.sort()
    n = len(ordered)
    cuts = np.zeros(2, np.int64)
    for k in range(stages - 1):
        best = 0.0
        for i in range(_LEVEL, n - _LEVEL + 1):
            gap = ordered[i] - ordered[i - 1]
            if gap > best and (k == 0 or abs(i - cuts[0]) >= _LEVEL):
                best, cuts[k] = gap, i
    thresholds = np.full(2, np.inf)
    low, high = min(cuts[0], cuts[1]), max(cuts[0], cuts[1])
    k, start = 0, 0
    for cut, stop in ((low, high), (high, n)):
        # A missing cut is 0.
        if cut > start and stop > cut:
            below, above = _spread(ordered[start:cut]), _spread(ordered[cut:stop])
            if above[0] - below[0] > _APART * math.hypot(below[1], above[1]):
                thresholds[k] = 0.5 * (ordered[cut - 1] + ordered[cut])
                k, start = k + 1, cut
    return thresholds[0], thresholds[1]


@kernel(error_model="numpy")
def _spread(values):  # type: ignore[no-untyped-def]
    """Return the mean and the standard deviation."""
    mean = values.sum() / len(values)
    total = 0.0
    for value in values:
        total += (value - mean) ** 2
    return mean, math.sqrt(total / len(values))


@kernel(error_model="numpy")
def _switch(g, stage):  # type: ignore[no-untyped-def]
    """Return the index of the switch to `stage` or beyond that leaves the fewest exceptions."""
    wrong = 0
    for value in g:
        wrong += 0 <= value < stage
    best, place = wrong, 0
    for i in range(len(g)):
        if g[i] >= stage:
            wrong += 1
        elif g[i] >= 0:
            wrong -= 1
        if wrong < best or (wrong == best and i + 1 == len(g)):
            best, place = wrong, i + 1
    return place


@kernel(error_model="numpy")
def _line(x, y, e, settles, linearity):  # type: ignore[no-untyped-def]
    """Return slope, its error, intercept, its error, residual; points; curved.

    The first estimate is the median slope between the two halves, which tolerates a quarter of
    outliers. A least-squares fit without the outliers follows.
    """
    keep = np.ones(len(x), np.bool_)
    if settles:
        slope, _, intercept, _, rest, amplitude = _least_squares(x, y, e, keep, True)
    else:
        half = len(x) // 2
        rises = np.empty(len(x) - half)
        m = 0
        for i in range(len(rises)):
            if x[i + half] > x[i]:
                rises[m] = (y[i + half] - y[i]) / (x[i + half] - x[i])
                m += 1
        if m == 0:
            return (math.nan, math.nan, math.nan, math.nan, math.nan), 0, False
        slope, amplitude = np.median(rises[:m]), 0.0
        intercept = np.median(y - slope * x)
    slope_error, intercept_error, rest, points = math.nan, math.nan, math.nan, 0
    for _ in range(2):
        r = np.abs(y - slope * x - intercept - amplitude * e)
        keep = r <= _CLIP * max(1.4826 * np.median(r), _ROUNDING)
        points = keep.sum()
        if points < 4:
            return (math.nan, math.nan, math.nan, math.nan, math.nan), points, False
        slope, slope_error, intercept, intercept_error, rest, amplitude = _least_squares(
            x, y, e, keep, settles
        )
    r = (y - slope * x - intercept - amplitude * e)[keep]
    rise = abs(slope) * (x[-1] - x[0])
    curved = _curved(x[keep], r, max(linearity * rise, _ROUNDING))
    return (slope, slope_error, intercept, intercept_error, rest), points, curved


@kernel(error_model="numpy")
def _least_squares(x, y, e, keep, settles):  # type: ignore[no-untyped-def]
    """Return slope, error, intercept, error, residual, amplitude of e (orthogonal to the line)."""
    n, xm, ym, em = 0, 0.0, 0.0, 0.0
    for i in range(len(x)):
        if keep[i]:
            n, xm, ym, em = n + 1, xm + x[i], ym + y[i], em + e[i]
    xm, ym, em = xm / n, ym / n, em / n
    sxx, sxy, sxe = 0.0, 0.0, 0.0
    for i in range(len(x)):
        if keep[i]:
            d = x[i] - xm
            sxx, sxy, sxe = sxx + d * d, sxy + d * (y[i] - ym), sxe + d * (e[i] - em)
    slope, amplitude, tilt, see = sxy / sxx, 0.0, 0.0, math.inf
    if settles:
        tilt = sxe / sxx
        see, sey = 0.0, 0.0
        for i in range(len(x)):
            if keep[i]:
                free = e[i] - em - tilt * (x[i] - xm)
                see, sey = see + free * free, sey + free * y[i]
        if see > 1e-9 * n:  # else the exponential has decayed before the first used frame
            amplitude = sey / see
            slope -= amplitude * tilt
        else:
            see = math.inf
    intercept = ym - slope * xm - amplitude * em
    total = 0.0
    for i in range(len(x)):
        if keep[i]:
            total += (y[i] - slope * x[i] - intercept - amplitude * e[i]) ** 2
    variance = total / (n - 2 - (see < math.inf))
    slope_error = math.sqrt(variance * (1 / sxx + tilt * tilt / see))
    intercept_error = math.sqrt(variance * (1 / n + xm * xm / sxx + (tilt * xm - em) ** 2 / see))
    return slope, slope_error, intercept, intercept_error, math.sqrt(variance), amplitude


@kernel(error_model="numpy")
def _curved(x, r, limit):  # type: ignore[no-untyped-def]
    """Return True if the residuals r are systematic, not only noise, and exceed the limit.

    Either all residuals or the parabola through them must exceed the limit. The noise is computed
    from the differences of successive residuals.
    """
    n = len(x)
    noise = 0.5 * np.mean((r[1:] - r[:-1]) ** 2)
    systematic = np.mean(r * r) - noise
    if systematic > 5 * math.sqrt(2 / n) * noise and systematic > limit * limit:
        return True
    z = (x - x.mean()) / (x[-1] - x[0])
    q = z * z - np.mean(z * z) - z * (np.mean(z * z * z) / np.mean(z * z))
    square = np.mean(q * q)
    parabola = np.mean(q * r) ** 2 / square  # mean square of the parabola
    return parabola * n > _CLIP * _CLIP * noise and parabola > limit * limit
