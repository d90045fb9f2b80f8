"""Sentences on the position of satellites, and on the arms of their star."""

from collections.abc import Sequence

import numpy as np

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.bragg.satellite_course import FEWEST, Course
from hklflow.bragg.star_arms import Arms
from hklflow.quality.order_words import decimals, number
from hklflow.quality.remedies import vector_text

_FIXED = 1e-9  # error of a component that symmetry fixes, r.l.u.


def position(course: Course, axis: Axis = TEMPERATURE) -> str | None:
    """Return if the vector moves, and where it locks in; None if symmetry fixes all of it."""
    star = course.star
    name = f"reflections at {vector_text(star.vector.tolist())}"
    if not star.basis.size:
        return None
    seen = course.seen
    if course.moves is None:
        return (
            f"{name}: q is measured in {len(seen)} scans, and {FEWEST} are needed; not determined "
            "if it moves"
        )
    order = axis.ends(seen)
    ends = [axis.at(course.temperature[i]) for i in order]
    free = np.linalg.norm(star.basis, axis=1) > _FIXED
    fixed = [axis for axis, x in zip("hkl", free, strict=True) if not x]
    by_symmetry = f"; symmetry fixes {' and '.join(fixed)}" if fixed else ""
    if not course.moves:
        mean = vector_text(course.mean.tolist(), course.mean_sigma.tolist())
        return (
            f"{name}: q = {mean} does not move by more than {_limit(course.limit)} r.l.u. (95 %) "
            f"between {ends[0]} and {ends[1]}{by_symmetry}"
        )
    places = []
    for i in order:
        one = course.positions[i]
        assert one is not None
        places.append(vector_text(one.vector.tolist(), course.sigma(i).tolist()))
    text = (
        f"{name}: q moves {axis.course}, from {places[0]} at {ends[0]} to {places[1]} at {ends[1]}"
    )
    if course.locked is not None:
        below = f"below {number(course.locked, axis.suffix)}"
        mean = vector_text(course.mean.tolist(), course.mean_sigma.tolist())
        if course.commensurate is not None:
            plain = vector_text(course.commensurate.tolist())
            text += f"; it locks in at {plain} {below} (mean {mean})"
        else:
            text += f"; it is constant {below}, at {mean}"
    return text + by_symmetry


def _limit(x: float) -> str:
    """Return a limit with one digit, rounded up."""
    size = 10 ** float(np.floor(np.log10(max(x, 1e-6))))
    return f"{np.ceil(x / size - 1e-9) * size:.1g}"


def arms(vector: Sequence[float], found: Arms, axis: Axis = TEMPERATURE) -> str:
    """Return if the arms of a star have the same intensity."""
    name = f"arms of the star of {vector_text(vector)}"
    texts = []
    for one, share, sigma in zip(found.vectors, found.shares, found.sigma, strict=True):
        n = decimals(100 * sigma)
        texts.append(f"{100 * share:.{n}f} ± {100 * sigma:.{n}f} % at {_plain(one.tolist())}")
    parts = ", ".join(texts)
    if found.equal is None:
        return f"{name}: not determined if their intensities are equal ({parts})"
    if found.equal:
        text = (
            f"{name}: their intensities are equal within errors ({parts}): domains of equal "
            "volume, or all arms in each domain"
        )
    else:
        text = f"{name}: their intensities differ ({parts}): domains of unequal volume"
    return text + (f"; the shares depend on {axis.name}" if found.changes else "")


def _plain(vector: Sequence[float]) -> str:
    """Return a vector with fractions, and three decimals where there is none."""
    text = vector_text(vector)
    if "." not in text:
        return text
    return f"({', '.join(f'{x:.3g}' for x in np.round(vector, 3) + 0.0)})"
