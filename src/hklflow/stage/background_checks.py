"""Checks of runs without the crystal against the frames with the crystal."""

from typing import TYPE_CHECKING

from hklflow.stage.background_settings import Named

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from hklflow.images.ring_search import Search
    from hklflow.images.run_check import Counted
    from hklflow.images.scan import RotationScan
    from hklflow.images.surroundings import Part, Rings

# Standard deviations of the rest of a shell below 0 that are reported.
_NEGATIVE = 4.0
# Share of the good pixels above which spots are not left out: the run is of something else.
_MANY = 0.2
# Error of the level of the rings of a run that is small enough to judge it, standard deviations of
# its deviation from 1, and deviations that are reported: more than that changes S where a ring is
# as strong as S by more than 5 %.
_KNOWN = 0.2
_DEVIATIONS = 5.0
_LEVEL = 0.05
# Largest factor of a background that the counts allow, and part of S that it would be (median over
# |Q|), above which its level is called not confirmed. Next to the beam stop air scatters more than
# a crystal: in simulations the factor is below 1.3, and 4 to 6 if the run is 3 to 5 times too weak.
_ALLOWED, _ALLOWED_OF_S = 2.0, 0.03
# Shells of |Q| for the rings, and the rms of a curve without a smooth part, over its mean, above
# which it has rings: steps of the solid angle and of modules in smooth scattering are below 1 %.
SHELLS = 300
_ROUGH = 0.03


def contradicted(sums: "Counted", parts: "list[Part]") -> tuple[list[str], bool]:
    """Leave out pixels where a run has spots or shadows that the frames have not.

    Their levels become NaN in all parts. Returns warnings, and False if the spots are so many that
    the run is of something else.
    """
    import numpy as np

    from hklflow.images import run_check

    names = ", ".join(part.name for part in parts)
    good = np.count_nonzero(np.isfinite(sums.expected))
    warnings = []
    spots, shadows = run_check.spots(sums), run_check.shadows(sums)
    if (n_spots := np.count_nonzero(spots)) > _MANY * good:
        warnings.append(
            f"{names}: {n_spots} pixels ({n_spots / good:.1%}) are in sharp spots of "
            "the run that the frames with the crystal have not, so too much is subtracted there: "
            "was the crystal in the beam? Give a run without it"
        )
        spots[:] = False
    elif n_spots:
        warnings.append(
            f"{names}: S is not measured in {n_spots} pixels in sharp spots of the run "
            "that the frames with the crystal have not (diamonds, a window, the crystal); "
            "measure the run at several angles, and check that the crystal was not in the beam"
        )
    if n := np.count_nonzero(shadows):
        warnings.append(
            f"{names}: S is not measured in {n} pixels that are in a shadow in the run and not in "
            "the frames with the crystal; measure the run with the beam stop at the same place"
        )
    for part in parts:
        part.level[spots | shadows] = part.variance[spots | shadows] = np.nan
    return warnings, bool(n_spots <= _MANY * good)


def rings_left(left: "Search", names: str) -> list[str]:
    """Return a warning if powder rings are left that the runs do not have."""
    if not left.rings and left.frozen is None:
        return []
    found = []
    if left.rings:
        found.append(
            f"at |Q| = {', '.join(f'{ring.q:.2f}' for ring in left.rings)} 1/Å, as high as "
            f"{max(ring.share for ring in left.rings):.0%} of S next to them"
        )
    if left.frozen is not None:
        heights = ", ".join(f"{height:.0%}" for height in left.frozen.heights)
        found.append(f"of ice, {heights} of S in consecutive parts of the rotation")
    return [
        f"{names}: powder rings are left {', and '.join(found)}: the run does not have them, or "
        "has weaker ones; measure the run with all that was in the beam (furnace, windows), or "
        "mask the rings (`hklflow mask add annulus`)"
    ]


def not_confirmed(most: float, of_s: float, runs: list[Named]) -> list[str]:
    """Return a warning if the frames have far more counts than the background everywhere.

    A run with a stated error, or with a fitted factor, needs no confirmation.

    Parameters
    ----------
    most, of_s : float
        Largest factor of the background that the counts allow, and what S loses with it.
    """
    unknown = _without_error(runs)
    if not (unknown and most > _ALLOWED and of_s > _ALLOWED_OF_S):
        return []
    return [
        f"{', '.join(unknown)}: the frames have at least {most:.1f} times the counts of the "
        "background on all of the detector, so that nothing confirms its level, and S may be too "
        "large by up to "
        f"{of_s:.0%} (median over |Q|); air alone would scatter as much next to the beam stop: "
        "check exposure, monitor and attenuator of the run, and give their uncertainty as "
        "`scale_error`"
    ]


def _without_error(runs: list[Named]) -> list[str]:
    """Return the names of the runs whose levels are taken to be right."""
    return [run.name for run in runs if run.scale != "fit" and run.scale_error == 0]


def no_monitor(runs: list[Named], scan: "RotationScan") -> list[str]:
    """Return a warning if the incident intensity of a run is taken from its exposure."""
    unknown = _without_error(runs)
    if scan.monitor_source != "none" or not unknown:
        return []
    return [
        f"{', '.join(unknown)}: without a monitor the background is scaled by exposure and "
        "attenuation, as if the beam had been the same with and without the crystal; give a "
        "measured `scale`, or the uncertainty as `scale_error`"
    ]


def sensitivity(rings: "Rings") -> tuple[float, float]:
    """Return the relative change of S by 1 % of the background: median and largest of shells."""
    import numpy as np

    rest = rings.measured - rings.background
    use = (rest > 0) & (rings.pixels > 0)
    if not use.any():
        return 0.0, 0.0
    ratio = 0.01 * rings.background[use] / rest[use]
    return float(np.median(ratio)), float(ratio.max())


def sharp(parts: "Sequence[Part]", q: "NDArray[np.float64]") -> bool:
    """Return True if the backgrounds have powder rings, which determine their level."""
    import numpy as np

    from hklflow.images import surroundings

    level = np.sum([part.level * part.factor.mean() for part in parts], axis=0)
    variance = np.sum([part.variance * part.factor.mean() ** 2 for part in parts], axis=0)
    known = np.isfinite(level) & np.isfinite(variance)
    if not known.any():
        return False
    shell = np.digitize(q[known], np.linspace(q[known].min(), q[known].max(), SHELLS + 1)) - 1
    n = np.bincount(shell)
    use = n > 0
    mean = np.bincount(shell, level[known])[use] / n[use]
    error = np.sqrt(np.bincount(shell, variance[known])[use]) / n[use]
    centres = np.bincount(shell, q[known])[use] / n[use]
    rest, noise = surroundings.roughness(centres, mean, error)
    return rest > _ROUGH and rest > _DEVIATIONS * noise


def ring_levels(parts_of_rotation: "Sequence[Rings]") -> list[tuple[float, float]]:
    """Return the level of the background's rings and its error, of each range of frames."""
    import numpy as np

    from hklflow.images import surroundings

    found = []
    for rings in parts_of_rotation:
        use = (rings.pixels > 0) & (rings.measured_error > 0)
        errors = np.hypot(rings.measured_error, rings.noise)[use]
        curves = rings.q[use], rings.measured[use], errors, rings.background[use]
        found.append(surroundings.fitted_scale(*curves))
    return found


def level_doubt(levels: list[tuple[float, float]], names: str) -> str | None:
    """Return a warning if rings of the run are weaker or stronger in some of the frames."""
    wrong = [
        level
        for level, error in levels
        if error < _KNOWN and abs(level - 1) > max(_DEVIATIONS * error, _LEVEL)
    ]
    if not wrong:
        return None
    known = [level for level, error in levels if error < _KNOWN]
    uncertain = max(error for _, error in levels if error < _KNOWN)
    changes = max(known) - min(known) > max(_DEVIATIONS * uncertain, _LEVEL)
    cure = (
        "they change during the rotation, and one factor cannot describe it: mask the rings, or "
        "measure again"
        if changes
        else "give `scale: fit`, or correct monitor, exposure and attenuation of the run"
    )
    listed = ", ".join(f"{level:.2f}" for level, _ in levels)
    return (
        f"{names}: the powder rings of the run have {listed} times their expected strength in "
        f"{len(levels)} consecutive parts of the rotation; {cure}"
    )


def share(rings: "Rings") -> float:
    """Return the share of the background of all counts."""
    total = float((rings.pixels * rings.measured).sum())
    return float((rings.pixels * rings.background).sum()) / total if total > 0 else 0.0


def doubts(rings: "Rings", told_error: float) -> list[str]:
    """Return warnings on shells below 0, and on errors of S that are larger than reported ones."""
    import numpy as np

    rest = rings.measured - rings.background
    error = np.sqrt(rings.measured_error**2 + rings.noise**2 + rings.level**2)
    doubts = []
    below = (rest < -_NEGATIVE * error) & (rings.pixels > 0)
    if below.any():
        worst = int(np.argmin(np.where(below, rest / np.maximum(error, 1e-300), 0)))
        doubts.append(
            f"the background is larger than the measured counts in {np.count_nonzero(below)} of "
            f"{len(rest)} shells of |Q| ({rings.background[worst]:.4g} of "
            f"{rings.measured[worst]:.4g} counts at {rings.q[worst]:.2f} 1/Å); check monitor, "
            "attenuation and exposure of the run, and the transmission of the crystal; the crystal "
            "must not be in the beam during the run"
        )
    positive = rest > 0
    for noise, what, cure in (
        (rings.noise, "by the noise of the runs", "measure them longer"),
        (rings.level, "by the errors of their levels", "measure the transmission of the crystal"),
    ):
        relative = np.divide(noise, rest, out=np.zeros_like(rest), where=positive)
        if positive.any() and (middle := float(np.median(relative[positive]))) > told_error:
            doubts.append(
                f"the mean of S over a shell of |Q| has an error of {middle:.2%} (median of the "
                f"shells; limit {told_error:.1%}) {what}, which is the same for all voxels "
                f"of the shell and not in their error bars; {cure}"
            )
    return doubts
