"""Compare a measured cell with the conventional cells of all 14 Bravais types."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.geometry import lattice, symmetry
from hklflow.geometry.symmetry import BravaisSetting

Floats = NDArray[np.float64]

#: The Bravais types, from the lowest to the highest symmetry.
TYPES = ("aP", "mP", "mC", "oP", "oC", "oI", "oF", "tP", "tI", "hR", "hP", "cP", "cI", "cF")

WIDEST = 3.0  # largest Le Page angle of a listed setting, degrees
_SIGMAS = 5.0  # a larger deviation of a cell parameter, in σ, is no error of the fit ...
_SMALL = 0.1  # ... but below this many % or degrees it may be an error of the geometry
_STEP = 1e-5  # relative step of the numerical derivatives


@dataclass(frozen=True)
class Fit:
    """Conventional cell of one Bravais type that is nearest to the measured cell.

    Attributes
    ----------
    bravais : str
        Bravais type, for example ``oI``.
    setting : BravaisSetting or None
        The conventional setting; None if no cell of this type is within 3°.
    matrix : (3, 3) array or None
        ``h_conventional = matrix @ h``; the axes transform with the same matrix.
    percent : float
        Largest deviation of a cell parameter from its constraint: lengths in %, angles in degrees.
    sigmas : float
        Largest deviation in σ; NaN without errors of the cell.
    verdict : str
        "compatible": within 5σ (without errors: within 0.1 % and 0.1°). "nearly": beyond 5σ, but
        within 0.1 % and 0.1°; errors of the geometry or a pseudo-symmetric cell. "excluded".
    """

    bravais: str
    setting: BravaisSetting | None
    matrix: Floats | None
    percent: float
    sigmas: float
    verdict: str


def rank(reduced: Floats, to_reduced: Floats, cell: Floats, sigma: Floats | None) -> list[Fit]:
    """Return the best fit of each of the 14 Bravais types, the lowest symmetry first.

    Parameters
    ----------
    reduced : (6,) array
        Reduced primitive cell.
    to_reduced : (3, 3) array
        ``h_reduced = to_reduced @ h``.
    cell, sigma : (6,) array
        Measured cell without constraints, and its σ or None.
    """
    best: dict[str, Fit] = {}
    for setting in symmetry.bravais_settings(reduced, WIDEST):
        matrix = setting.matrix @ to_reduced
        percent, sigmas = deviation(cell, sigma, matrix, setting.group)
        fit = Fit(setting.bravais, setting, matrix, percent, sigmas, verdict(percent, sigmas))
        known = best.get(_type(setting.bravais))
        if known is None or (percent, setting.delta) < (known.percent, _delta(known)):
            best[_type(setting.bravais)] = fit
    nan = float("nan")
    return [best.get(name, Fit(name, None, None, nan, nan, "excluded")) for name in TYPES]


def deviation(
    cell: ArrayLike, sigma: ArrayLike | None, matrix: Floats, group: symmetry.SpaceGroup
) -> tuple[float, float]:
    """Return the largest deviation of a transformed cell from a group's constraints.

    Parameters
    ----------
    cell, sigma : (6,) array
        Cell, and its uncorrelated σ or None.
    matrix : (3, 3) array
        Matrix from the cell's axes to the axes of the group.

    Returns
    -------
    percent : float
        In % for lengths, in degrees for angles.
    sigmas : float
        In σ of the deviation; NaN without ``sigma``.
    """
    cell = np.asarray(cell, dtype=np.float64)
    away = _away(cell, matrix, group)
    scale = np.array([*_transformed(cell, matrix)[:3] / 100, 1, 1, 1])
    percent = float(np.abs(away / scale).max())
    if sigma is None:
        return percent, float("nan")
    steps = _STEP * np.array([*cell[:3], 90, 90, 90])
    slopes = [
        (_away(cell + step, matrix, group) - _away(cell - step, matrix, group)) / (2 * step.sum())
        for step in np.diag(steps)
    ]
    error = np.sqrt(np.square(slopes).T @ np.square(np.asarray(sigma, dtype=np.float64)))
    # Parameters that the group leaves free do not deviate.
    tested = np.abs(away / scale) > 1e-7
    with np.errstate(divide="ignore"):
        ratio = np.abs(away[tested]) / error[tested]
    return percent, float(ratio.max(initial=0.0))


def _transformed(cell: Floats, matrix: Floats) -> Floats:
    return lattice.cell_from_metric(matrix @ lattice.metric(cell) @ matrix.T)


def _away(cell: Floats, matrix: Floats, group: symmetry.SpaceGroup) -> Floats:
    moved = _transformed(cell, matrix)
    return moved - symmetry.constrain_cell(moved, group)


def verdict(percent: float, sigmas: float) -> str:
    """Return the verdict of a `Fit`, see there."""
    small = percent <= _SMALL
    if np.isnan(sigmas):
        return "compatible" if small else "excluded"
    return "compatible" if sigmas <= _SIGMAS else "nearly" if small else "excluded"


def _type(bravais: str) -> str:
    # A, B, C and I centred monoclinic lattices are settings of one type, as A, B and C of oC.
    return {"mA": "mC", "mB": "mC", "mI": "mC", "oA": "oC", "oB": "oC"}.get(bravais, bravais)


def _delta(fit: Fit) -> float:
    return float("inf") if fit.setting is None else fit.setting.delta
