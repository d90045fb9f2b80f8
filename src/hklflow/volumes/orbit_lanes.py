"""Words of `orbit_kernels`: observations of sixteen orbits at a time.

The arrays of places (places, BATCH) are those of `orbit_kernels`: the last index is the orbit.
"""

from hklflow.simd.control import Variable, span
from hklflow.simd.define import LIKE, Array, word
from hklflow.simd.kinds import F64, I64, U32, U64
from hklflow.simd.memory import load, store
from hklflow.simd.value import Value, constant, convert, maximum, select

#: Number of orbits of a batch.
BATCH = 32

_LANES = 16

# Least expected counts of a group of observations in χ².
_LEAST = 5.0


@word(LIKE, LIKE, LIKE, LIKE, I64, I64, LIKE, LIKE)
def disagreement(
    c: Array,
    m: Array,
    r: Array,
    sums: Array,
    places: Value,
    noisy: Value,
    chi2: Array,
    dof: Array,
) -> None:
    """Write χ² of the observations of orbits about their common rate, and its expectation.

    Observations are joined, in their order, to groups of at least 5 expected counts. The groups
    depend only on the norms, so that the expectation is right for few counts. For n groups the
    expectation is n - 1 for photons, and ``n - 2 + (V / M²) Σ M_g² / V_g`` with read noise. For
    fewer than two groups the result is (0, 0).

    Parameters
    ----------
    c, m, r : (places, BATCH) arrays
        Counts, norms and read variances; without read noise, ``r`` is a row of zeros.
    sums : (3, BATCH) array
        Sums of counts and norms.
    noisy : int
        1 with read noise, else 0.
    chi2, dof : (BATCH,) arrays
        Output.
    """
    with span(constant(I64, BATCH), step=_LANES) as i:
        total = load(F64, sums.address, i, lanes=_LANES)
        norm = load(F64, sums.address, i + BATCH, lanes=_LANES)
        rate = select(norm > 0, maximum(total, 0.0) / norm, 0.0)
        zero = constant(F64, 0.0, _LANES)
        groups, found, shares, variance = (Variable(zero) for _ in range(4))
        # Suffix 0: last complete group, which gets the remainder at the end; 1: incomplete group.
        c0, m0, v0, c1, m1, v1 = (Variable(zero) for _ in range(6))
        with span(places) as place:
            at = place * BATCH + i
            exposed = load(F64, m.address, at, lanes=_LANES)
            expected = exposed * rate
            expected += load(F64, r.address, place * noisy * BATCH + i, lanes=_LANES)
            variance.value += expected
            joined = (
                c1.value + load(F64, c.address, at, lanes=_LANES),
                m1.value + exposed,
                v1.value + expected,
            )
            full = joined[2] >= _LEAST
            inverse = select(full & (groups.value > 0), 1 / v0.value, 0.0)
            away = c0.value - m0.value * rate
            found.value += away * away * inverse
            shares.value += m0.value * m0.value * inverse
            groups.value += select(full, zero + 1, 0.0)
            for done, open_, new in zip((c0, m0, v0), (c1, m1, v1), joined, strict=True):
                done.value = select(full, new, done.value)
                open_.value = select(full, zero, new)
        known = groups.value >= 2
        joined = c0.value + c1.value, m0.value + m1.value, v0.value + v1.value
        away = joined[0] - joined[1] * rate
        inverse = 1 / joined[2]
        all_shares = shares.value + joined[1] * joined[1] * inverse
        expectation = groups.value - 2 + variance.value * all_shares / (norm * norm)
        store(select(known, found.value + away * away * inverse, 0.0), chi2.address, i)
        store(select(known, expectation, 0.0), dof.address, i)


@word(LIKE, LIKE, I64, LIKE, LIKE)
def draw(seeds: Array, n: Array, most: Value, drawn: Array, sides: Array) -> None:
    """Draw, by a hash, the swaps that shuffle the observations of orbits.

    Parameters
    ----------
    seeds, n : (BATCH,) int64 arrays
        Seed, and number of observations.
    most : int
        Largest number of observations.
    drawn : (most, BATCH) uint32 array
        Output: observation i is swapped with observation ``drawn[i]``, which is not before i.
    sides : (BATCH,) int64 array
        Output: 0 or 1, the half of the first observation.
    """
    with span(constant(I64, BATCH), step=_LANES) as i:
        state = Variable(load(U64, seeds.address, i, lanes=_LANES))
        state.value = state.value * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03
        left = Variable(convert(load(I64, n.address, i, lanes=_LANES), F64))
        number = Variable(constant(F64, 0.0, _LANES))
        side = Variable(constant(U64, 0, _LANES))
        with span(most) as step:
            state.value = state.value ^ (state.value >> 29)
            state.value = state.value * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB
            bits = state.value >> 33
            side.value = select(number.value > 0, side.value, (bits >> 20) & 1)
            # Quotients of 31 bits by a small number cannot be rounded up to the next integer.
            value, divisor = convert(convert(bits, I64), F64), maximum(left.value, 1.0)
            quotient = convert(convert(value / divisor, I64), F64)
            other = number.value + (value - quotient * divisor)
            store(convert(convert(other, I64), U32), drawn.address, step * BATCH + i)
            left.value -= 1.0
            number.value += 1.0
        store(convert(side.value, I64), sides.address, i)
