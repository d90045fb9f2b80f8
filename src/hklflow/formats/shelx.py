"""Write SHELX reflection files: HKLF 4, h k l I σ(I) batch in the columns 3I4, 2F8, I4.

A number with a decimal point may have it anywhere in its 8 columns, so each number is written with
as many digits as fit. A common factor, a power of ten, scales the largest below 10000: then a blank
separates all columns, and the smallest are not rounded to two decimals.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.bragg.structure_factors import Crystal, Scaled, StructureFactors

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_LARGEST = 9999.0
_WIDTH = 7  # columns of a number, without the blank before it


def rows_of(factors: StructureFactors, observed: Scaled | None) -> tuple[Integers, Floats, Floats]:
    """Return indices, intensities and errors of the merged or, if given, the observed reflections.

    Friedel mates that were kept separate remain separate; observations keep their own indices.
    """
    if observed is not None:
        return observed.hkl, observed.intensity, observed.sigma
    if factors.plus is None or factors.minus is None:
        return factors.hkl, factors.mean.intensity, factors.mean.sigma
    plus, minus = factors.plus.n > 0, factors.minus.n > 0
    return (
        np.concatenate([factors.hkl[plus], -factors.hkl[minus]]),
        np.concatenate([factors.plus.intensity[plus], factors.minus.intensity[minus]]),
        np.concatenate([factors.plus.sigma[plus], factors.minus.sigma[minus]]),
    )


def write_hklf4(
    path: Path,
    hkl: Integers,
    intensity: Floats,
    sigma: Floats,
    *,
    crystal: Crystal,
    merged: bool,
) -> float:
    """Write reflections, all of batch 1; return the factor, also written after the last line.

    SHELXL reads up to the line of zeros; the rest is for people.

    Raises
    ------
    HklflowError
        If an index has more than 4 columns, or a value is not finite.
    """
    if np.any(hkl > 999) or np.any(hkl < -999):
        raise HklflowError(
            f"indices up to {int(np.abs(hkl).max())} do not fit into the four columns of HKLF 4; "
            "use the MTZ file"
        )
    if not (np.all(np.isfinite(intensity)) and np.all(np.isfinite(sigma))):
        raise HklflowError("an intensity or its error is not a number; scale the reflections again")
    # A sign takes the place of a digit before the point.
    top = max(
        float(np.max(np.maximum(intensity, -10 * intensity), initial=0.0)),
        float(sigma.max(initial=0.0)),
    )
    factor = 10.0 ** np.floor(np.log10(_LARGEST / top)) if top > 0 else 1.0
    lines = [
        f"{h:4d}{k:4d}{l:4d} {_number(i)} {_number(s)}   1"
        for (h, k, l), i, s in zip(  # noqa: E741
            hkl.tolist(), (factor * intensity).tolist(), (factor * sigma).tolist(), strict=True
        )
    ]
    cell = " ".join(f"{x:.6g}" for x in crystal.cell)
    lines += [
        f"{0:4d}{0:4d}{0:4d}{0:8.2f}{0:8.2f}{0:4d}",
        "",
        f"{crystal.sample} {crystal.scan}: {'merged' if merged else 'scaled, not merged'}",
        f"intensities and errors are {factor:g} times those in 1/Å³",
        f"CELL {crystal.wavelength:.6g} {cell}; space group {crystal.space_group}",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return float(factor)


def _number(value: float) -> str:
    """Return a number in 7 columns with as many decimals as fit."""
    whole = len(f"{int(abs(value))}") + (value < 0)
    text = f"{value:{_WIDTH}.{_WIDTH - 1 - whole}f}"
    # 999.9999 may be rounded up to a number with one more digit.
    return text if len(text) <= _WIDTH else text[:_WIDTH]
