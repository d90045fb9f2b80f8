"""Checks of the fill of holes: control holes, shells that were not measured."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hklflow.transform.shells import Shells
    from hklflow.volumes.control import Control
    from hklflow.volumes.cosines import Cosine
    from hklflow.volumes.fill import Target
    from hklflow.volumes.tails import Tails

# Filled fraction within q_max above which errors of the ΔPDF at small r are known less well.
_MUCH = 0.02
# The same, above which nothing is learnt from the rest; `pdf` refuses from a weight of 0.3 on.
_TOO_MUCH = 0.7
# Lost part of a cosine, in σ of its noise: as large as σ, it doubles the mean square of the pulls.
_LOST = 1.0


def require_scattering(target: "Target", within: bool, q_max: float, path: str) -> None:
    """Refuse a volume whose measured voxels outside of holes say nothing about S.

    Parameters
    ----------
    target : Target
        S, σ and codes of a volume.
    within : bool
        True if a voxel within q_max and outside of the holes is measured.
    q_max : float
        1/Å.
    path : str
        File of the volume, for messages.

    Raises
    ------
    HklflowError
        If no voxel within q_max is measured outside of the holes, or if S or σ is 0 in all of them.
    """
    from hklflow.base.errors import HklflowError
    from hklflow.volumes.fill import MEASURED

    if not within:
        raise HklflowError(
            f"{path}: no voxel within q_max = {q_max:.4g} 1/Å is measured outside of the holes, so "
            "that nothing can be filled; check q_max, the radius of the holes, and the masks"
        )
    number, has_scattering, has_errors = 0, False, False
    for data, errors, code in zip(target.data, target.errors, target.code, strict=True):
        measured = code == MEASURED
        number += int(measured.sum())
        has_scattering |= bool(data[measured].any())
        has_errors |= bool(errors[measured].any())
        if has_scattering and has_errors:
            return
    if not has_scattering:
        raise HklflowError(
            f"{path}: S = 0 in all {number} measured voxels outside of the holes; check that the "
            "frames have counts, and the masks and the subtracted background"
        )
    raise HklflowError(
        f"{path}: σ = 0 in all {number} measured voxels outside of the holes, so that no result "
        "would have an error; make the volume again with `symmetrise`"
    )


def gaps(shells: "Shells", q_max: float, coverage: float) -> list[str]:
    """Return a warning on the shell within q_max with the smallest measured fraction."""
    import numpy as np

    part = shells.seen / np.maximum(shells.inside, 1)
    # The beam stop always hides the first shells.
    first = int(np.argmax(part >= coverage / 2))
    own = np.arange(len(part)) >= first
    own &= (shells.inside > 0) & (shells.edges[1:] <= q_max * (1 + 1e-9))
    worst = int(np.argmin(np.where(own, part, np.inf)))
    if not own.any() or part[worst] >= coverage / 2:
        return []
    low, high = shells.edges[worst : worst + 2]
    return [
        f"only {100 * part[worst]:.0f} % of the shell of |Q| from {low:.3g} to {high:.3g} 1/Å is "
        f"measured, which is within q_max = {q_max:.3g} 1/Å; reduce q_max"
    ]


def too_little(share: float) -> list[str]:
    """Return a warning if too little within q_max was measured to learn from for the rest."""
    if share <= _TOO_MUCH:
        return []
    return [
        f"{100 * share:.1f} % of the voxels within q_max, outside of reflections, were not "
        "measured: too little is left to learn the spectrum and maxima inside of holes from, so "
        "that kriging alone fills them; reduce q_max or measure more"
    ]


def much(share: float) -> list[str]:
    """Return a warning if a large share of the voxels within q_max was not measured."""
    if share <= _MUCH:
        return []
    return [
        f"{100 * share:.1f} % of the voxels within q_max, outside of reflections, were not "
        "measured and are filled: their errors are correlated, so that σ of the ΔPDF is larger at "
        "small r, and may still be too small there; maxima in these regions come out too weak; "
        "reduce q_max or measure more"
    ]


def tails(model: "Tails") -> list[str]:
    """Return a warning if maxima of the diffuse scattering at reflections are not modelled."""
    if model.narrow:
        return [
            "the radius is more than a third of the distance between reflections: maxima of the "
            "diffuse scattering inside of the holes are not modelled, and the ΔPDF is too small at "
            "lattice vectors if there are any; use a smaller radius, if reflections end within it"
        ]
    if model.found or not model.rises:
        return []
    return [
        "S(Q) rises towards the reflections as no model of correlated displacements does "
        f"(chi-squared {model.chi2:.1f} per degree of freedom): what is inside of the holes may be "
        "too small, and σ does not contain it; use a smaller radius"
    ]


def told(found: "dict[str, Control]", model: str) -> dict[str, Any]:
    """Return the results in the control holes, and warnings, of an interpolant."""
    from hklflow.volumes.spectrum import NAME as spectrum  # noqa: N811

    warnings = []
    if model not in found:
        warnings.append(
            "fewer than ten control holes fit between the holes: nothing judges the fill, and "
            "kriging is used, whose errors add up at lattice vectors of the ΔPDF; use a smaller "
            "radius or a larger q_max, or measure more"
        )
        return {"control holes": None, "warnings": warnings}
    own = found[model]
    if own.rms > 1.0:
        warnings.append(
            f"the interpolation error in control holes is {own.rms:.2f} times the noise: the "
            "scattering varies within a hole, or the radius is too large; use a smaller radius or "
            "declare the satellites"
        )
    if abs(own.bias) > max(0.2, 4 * own.error):
        warnings.append(f"the fill of control holes is wrong by {own.bias:+.2f} σ on average")
    best = min(found, key=lambda name: found[name].rms)
    # Control holes do not see why the spectrum is taken.
    if model != spectrum and found[best].rms < 0.8 * own.rms - 0.05:
        warnings.append(
            f"{best} fits the control holes better than {model} (error without noise "
            f"{found[best].rms:.2f} σ instead of {own.rms:.2f} σ)"
        )
    judged = {
        name: {
            "rms of the fill in units of the noise": item.rms,
            "bias in units of the noise": item.bias,
            "standard error of the bias": item.error,
            "pull width": item.pull,
        }
        for name, item in found.items()
    }
    return {
        "rms of the fill in units of the noise": own.rms,
        "bias in units of the noise": own.bias,
        "pull width of control holes": own.pull,
        "control holes": own.holes,
        "interpolants": judged,
        "warnings": warnings,
    }


def of_cosines(cosines: "list[Cosine]") -> dict[str, Any]:
    """Return the results of injected cosines, and a warning if one loses more than its noise."""
    warnings = []
    worst = max(cosines, key=lambda item: item.lost, default=None)
    if worst is not None and worst.lost > _LOST:
        warnings.append(
            f"the fill lets the ΔPDF have {100 * worst.recovered:.1f} % of a cosine at "
            f"({', '.join(f'{x:g}' for x in worst.vector)}): {worst.lost:.1f} times the noise "
            "there is lost, and σ of single voxels does not contain it; use a smaller radius or "
            "a smaller q_max, or measure more"
        )
    return {
        "injected cosines": [
            {
                "vector": item.vector.tolist(),
                "length in Å": item.length,
                "recovered": item.recovered,
                "noise in units of the amplitude": item.error if item.error < 1e6 else None,
                "lost in units of the noise": item.lost,
            }
            for item in cosines
        ],
        "warnings": warnings,
    }
