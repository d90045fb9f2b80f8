"""Fill the holes of S(Q) by the spectrum after kriging, if the control holes allow it."""

from collections.abc import Callable, Iterable

import numpy as np

from hklflow.volumes.control import Control, better, of_spectrum
from hklflow.volumes.fill import Holes, Target, fill
from hklflow.volumes.spectrum import NAME, ROUNDS, SpectrumFill, TooLargeError
from hklflow.volumes.wave_box import reach_of


def is_judged(found: dict[str, Control], model: str) -> bool:
    """Return True if control holes judge kriging, so that the spectrum can be compared with it."""
    return model in found and bool(np.isfinite(found[model].rms))


def too_large(missing: float) -> str:
    """Return a warning that some bytes are missing for the spectrum."""
    return (
        "the holes are filled by kriging alone, whose errors add up at lattice vectors of the "
        f"ΔPDF: the fill by the spectrum needs {missing / 1e6:.0f} MB more; increase `memory` of "
        "`fill` by it"
    )


def rejected(spectrum: Control, kriging: Control) -> str:
    """Return a warning that kriging is better than the spectrum in the control holes."""
    return (
        f"the fill by the spectrum is wrong by {spectrum.rms:.2f} σ in control holes, and "
        f"kriging by {kriging.rms:.2f} σ: kriging is kept, whose errors add up at lattice "
        "vectors of the ΔPDF; use a smaller radius or a smaller q_max"
    )


def refill(
    target: Target,
    holes: list[Holes],
    found: dict[str, Control],
    model: str,
    q_max: float,
    threads: int = 1,
    progress: Callable[[Iterable[int], int, str], Iterable[int]] = lambda items, *_: items,
    rough: bool = False,
    memory: float = np.inf,
    rounds: int = ROUNDS,
) -> tuple[str, list[str], SpectrumFill | None]:
    """Fill the kriged holes again, in place.

    Returns the interpolant of their values, warnings, and the fill, or None if kriging is kept.
    Without control holes nothing judges the spectrum, and kriging is kept: where holes leave no
    room for control holes, the spectrum was up to 16 times as wrong in simulations, seldom better.

    Parameters
    ----------
    target : Target
        S with holes that are filled by kriging.
    holes : list of Holes
        Punched holes that `find_holes` returned.
    found : dict
        Results in control holes by interpolant; gets that of the spectrum.
    model : str
        Kriging that filled the holes.
    q_max : float
        Radius of the filled sphere, 1/Å.
    progress : callable, optional
        Function that gets the iterable over the rounds, their number and name, and returns it.
    rough : bool
        True if the holes are filled roughly only: if kriging is kept, they are filled again.
    memory : float
        Largest number of bytes for the spectrum.
    rounds : int
        Largest number of rounds.
    """
    if not is_judged(found, model):
        return model, [], None
    kriging = found[model]
    try:
        again = SpectrumFill(target, q_max, threads, reach_of(target, holes), memory)
    except TooLargeError as error:
        if rough:
            fill(target, model)
        return model, [too_large(error.needed - memory)], None
    for _ in progress(range(rounds), rounds, "rounds of the spectrum"):
        again.learn()
        if again.settled:
            break
    spectrum = of_spectrum(target, holes, q_max, again, model)
    if spectrum is not None:
        found[NAME] = spectrum
    if spectrum is None or not better(spectrum, kriging):
        if rough:
            fill(target, model)
        if spectrum is None:
            return model, [], None
        return model, [rejected(spectrum, kriging)], None
    again.write()
    if again.converged:
        return NAME, [], again
    unconverged = (
        "the fill by the spectrum has not converged, because gaps are wide: their inner voxels are "
        "nearer to kriging than they should be; reduce q_max or measure more"
    )
    return NAME, [unconverged], again
