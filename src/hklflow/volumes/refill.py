"""Fill the holes of S(Q) by the spectrum after kriging, if the control holes allow it."""

from collections.abc import Callable, Iterable

from hklflow.volumes.control import Control, better, of_spectrum
from hklflow.volumes.fill import Holes, Target
from hklflow.volumes.spectrum import NAME, ROUNDS, SpectrumFill


def refill(
    target: Target,
    holes: list[Holes],
    found: dict[str, Control],
    model: str,
    q_max: float,
    threads: int = 1,
    progress: Callable[[Iterable[int], int, str], Iterable[int]] = lambda items, *_: items,
) -> str:
    """Fill the kriged holes again, in place; return the interpolant whose values they have.

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
    """
    again = SpectrumFill(target, q_max, threads)
    for _ in progress(range(ROUNDS), ROUNDS, "rounds of the spectrum"):
        again.learn()
    own = of_spectrum(target, holes, again, model)
    if own is not None:
        found[NAME] = own
    if not better(own, found.get(model)):
        return model
    again.write()
    return NAME
