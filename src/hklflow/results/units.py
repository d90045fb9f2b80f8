"""Units of axes and lengths of volumes."""

from typing import TYPE_CHECKING

from hklflow.base.errors import HklflowError

if TYPE_CHECKING:
    from hklflow.results.source import Source

# Accepted spellings, of axes and of lengths, in reciprocal and in direct space.
_AXES = {False: ("r.l.u.", "rlu", "hkl"), True: ("unit cells", "cells", "xyz", "r.l.u.")}
_LENGTHS = {
    False: ("1/angstrom", "1/Å", "Å⁻¹", "1/A", "A-1"),
    True: ("angstrom", "Å", "A", "1/angstrom"),
}


def is_length(unit: str, direct: bool) -> bool:
    """Return True for a unit of lengths, False for the unit of the axes.

    The defaults of methods, ``r.l.u.`` and ``1/angstrom``, mean unit cells and Å in direct space.

    Raises
    ------
    HklflowError
        If the unit is unknown.
    """
    if unit in _LENGTHS[direct]:
        return True
    if unit in _AXES[direct]:
        return False
    raise HklflowError(
        f"unit {unit!r} is unknown; give {of_axes(direct)!r} or {of_lengths(direct)!r}"
    )


def canonical(unit: str, direct: bool) -> str:
    """Return the usual spelling of a unit, for attributes of results."""
    return of_lengths(direct) if is_length(unit, direct) else of_axes(direct)


def of_axes(direct: bool) -> str:
    """Return the unit of the axes."""
    return "unit cells" if direct else "r.l.u."


def of_lengths(direct: bool) -> str:
    """Return the unit of lengths."""
    return "angstrom" if direct else "1/angstrom"


def axis(name: str, source: "Source") -> dict[str, str | float]:
    """Return the attributes of an axis; ``scaling_factor`` is the length of its unit vector."""
    length = source.lengths[source.names.index(name)]
    return {"long_name": name, "units": of_axes(source.direct), "scaling_factor": float(length)}
