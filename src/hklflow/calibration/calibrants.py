"""Calibrants: d-spacings from pyFAI by name, or from a file.

A ring keeps its number in the whole list (0 is the innermost), even if `max_rings` or `purge_rings`
leaves out other rings.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_no_pipe

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Calibrant:
    """The rings of a known powder.

    Attributes
    ----------
    name : str
        pyFAI's name, or the file name without its suffix.
    source : str
        ``pyFAI <version>`` or the file.
    d : (n,) array
        All d-spacings in Å, decreasing.
    used : (n,) bool array
        False for rings that `max_rings` or `purge_rings` leaves out.
    """

    name: str
    source: str
    d: Floats
    used: NDArray[np.bool_]

    @property
    def sha256(self) -> str:
        """Hash of all d-spacings, each as a line with eight decimals."""
        text = "".join(f"{value:.8f}\n" for value in self.d)
        return hashlib.sha256(text.encode()).hexdigest()

    def two_theta(self, wavelength: float) -> Floats:
        """Return 2θ (m,) in radians of the rings that a wavelength in Å can reach, increasing."""
        return two_theta(self.d[self.d > wavelength / 2], wavelength)

    def record(self) -> dict[str, object]:
        """Return JSON-ready data: name, source, hash, and the rings left out."""
        last = int(np.flatnonzero(self.used)[-1]) + 1
        return {
            "name": self.name,
            "source": self.source,
            "sha256": self.sha256,
            "d_spacings": len(self.d),
            "max_rings": last if last < len(self.d) else None,
            "purged_rings": np.flatnonzero(~self.used[:last]).tolist(),
        }


def two_theta(d: Floats, wavelength: float) -> Floats:
    """Return 2θ (n,) in radians for d-spacings (n,) in Å, which must all be above λ/2."""
    angle: Floats = 2 * np.arcsin(wavelength / (2 * d))
    return angle


def is_file(calibrant: str | Path) -> bool:
    """Return True for a file of d-spacings (``x.D``, or a path), False for a calibrant's name."""
    text = str(calibrant)
    return isinstance(calibrant, Path) or text.lower().endswith(".d") or "/" in text


def read_calibrant(
    calibrant: str | Path, *, max_rings: int | None = None, purge_rings: Sequence[int] = ()
) -> Calibrant:
    """Look up a calibrant by pyFAI's name, or read a file of d-spacings.

    Parameters
    ----------
    calibrant : str or path
        Name, or a file with one d-spacing in Å per line, decreasing; text after ``#`` is a
        comment (pyFAI's .D format).
    max_rings : int, optional
        Number of innermost rings to use; None: all.
    purge_rings : sequence of int
        Numbers of rings (0 is the innermost) that must not be used.

    Raises
    ------
    HklflowError
        If pyFAI does not know the name, the file is not a decreasing list of positive numbers, or
        no ring is left.
    """
    if is_file(calibrant):
        path = Path(calibrant)
        name, source, d = path.stem, str(path), _read_file(path)
    else:
        name, source, d = str(calibrant), *_from_pyfai(str(calibrant))
    used = np.ones(len(d), dtype=bool)
    if max_rings is not None:
        if max_rings < 1:
            raise HklflowError(
                f"max_rings={max_rings} of calibrant {name} leaves no ring; use 1 or more"
            )
        used[max_rings:] = False
    for ring in purge_rings:
        if not 0 <= ring < len(d):
            raise HklflowError(
                f"purge_rings: {ring} is not a ring of {name}, which has {len(d)} (the innermost "
                "is 0); correct the list"
            )
        used[ring] = False
    if not used.any():
        raise HklflowError(
            f"max_rings and purge_rings leave none of the {len(d)} rings of {name}; correct them"
        )
    return Calibrant(name, source, d, used)


def _from_pyfai(name: str) -> tuple[str, Floats]:
    import pyFAI
    from pyFAI.calibrant import get_calibrant, names

    if name not in names():
        raise HklflowError(
            f"pyFAI does not know the calibrant {name!r}; use a file of d-spacings ({name}.D) or "
            f"one of {', '.join(sorted(names()))}"
        )
    # Some lists of pyFAI are not sorted.
    d = np.unique(np.asarray(get_calibrant(name).dspacing, dtype=np.float64))[::-1]
    return f"pyFAI {pyFAI.version}", np.ascontiguousarray(d)


def _read_file(path: Path) -> Floats:
    require_no_pipe(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HklflowError(
            f"the d-spacings cannot be read from {path} ({error}); correct the path or the file"
        ) from error
    values: list[float] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        where = f"line {number} of {path}"
        try:
            value = float(text)
        except ValueError:
            raise HklflowError(
                f"{text!r} in {where} is not a number; write one d-spacing in Å per line"
            ) from None
        if not (np.isfinite(value) and value > 0):
            raise HklflowError(f"d = {text} in {where} is not positive; d-spacings are in Å")
        if values and value >= values[-1]:
            raise HklflowError(
                f"d = {text} in {where} is not below the line before ({values[-1]:g}); sort the "
                "list from the innermost ring outwards"
            )
        values.append(value)
    if not values:
        raise HklflowError(f"{path} has no d-spacings; write one in Å per line")
    return np.array(values)
