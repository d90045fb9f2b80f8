"""Calibrants: d-spacings from pyFAI by name, or from a file; a folder of calibrants.

A file ends in ``.D`` (d-spacings, as pyFAI writes them) or in ``.yaml``: a calibrant with the rings
that its users leave out, see `Entry`. A ring keeps its number in the whole list (0 is the
innermost), even if `max_rings` or `purge_rings` leaves out other rings.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_no_pipe

Floats = NDArray[np.float64]

SUFFIXES = (".d", ".yaml", ".yml")
"""Endings of the files of calibrants."""


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
    file_sha256 : str or None
        Hash of the bytes of the file; None for a calibrant of pyFAI.
    """

    name: str
    source: str
    d: Floats
    used: NDArray[np.bool_]
    file_sha256: str | None = None

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
        return {
            **({} if self.file_sha256 is None else {"file_sha256": self.file_sha256}),
            "name": self.name,
            "source": self.source,
            "sha256": self.sha256,
            "d_spacings": len(self.d),
            "max_rings": self._last if self._last < len(self.d) else None,
            "purged_rings": self.purged,
        }

    @property
    def _last(self) -> int:
        return int(np.flatnonzero(self.used)[-1]) + 1

    @property
    def purged(self) -> list[int]:
        """Numbers of rings left out before the last ring that is used."""
        purged: list[int] = np.flatnonzero(~self.used[: self._last]).tolist()
        return purged


class Entry(BaseModel):
    """Content of a calibrant's YAML file: its d-spacings, and the rings that are not used."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    calibrant: str | None = None
    """Name in pyFAI; instead of `d_spacings`."""
    d_spacings: list[float] | None = Field(None, min_length=1)
    """d-spacings in Å, decreasing."""
    max_rings: int | None = Field(None, ge=1)
    """Largest number of innermost rings; a calibration may use fewer."""
    purge_rings: tuple[int, ...] = ()
    """Numbers of rings that are never used; the innermost is 0."""


def two_theta(d: Floats, wavelength: float) -> Floats:
    """Return 2θ (n,) in radians for d-spacings (n,) in Å, which must all be above λ/2."""
    angle: Floats = 2 * np.arcsin(wavelength / (2 * d))
    return angle


def is_file(calibrant: str | Path) -> bool:
    """Return True for a file (``x.D``, ``x.yaml``, or a path), False for a calibrant's name."""
    text = str(calibrant)
    return isinstance(calibrant, Path) or text.lower().endswith(SUFFIXES) or "/" in text


def files_of(folder: Path) -> list[Path]:
    """Return the files of a folder of calibrants, by name.

    Raises
    ------
    HklflowError
        If the folder has none, or two files have the name of one calibrant.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise HklflowError(f"{folder} has no calibrant; put files there that end in .D or .yaml")
    names = [path.stem for path in files]
    for path in files:
        if names.count(path.stem) > 1:
            raise HklflowError(
                f"{folder} has {names.count(path.stem)} files of the calibrant {path.stem}; keep "
                "one of them"
            )
    return files


def read_calibrant(
    calibrant: str | Path, *, max_rings: int | None = None, purge_rings: Sequence[int] = ()
) -> Calibrant:
    """Look up a calibrant by pyFAI's name, or read a file of d-spacings.

    Parameters
    ----------
    calibrant : str or path
        Name, or a file with one d-spacing in Å per line, decreasing; text after ``#`` is a
        comment (pyFAI's .D format). Or a YAML file, see `Entry`.
    max_rings : int, optional
        Number of innermost rings to use; None: all. A smaller number in the YAML file holds.
    purge_rings : sequence of int
        Numbers of rings (0 is the innermost) that must not be used, besides those of a YAML file.

    Raises
    ------
    HklflowError
        If pyFAI does not know the name, the file is not a decreasing list of positive numbers, or
        no ring is left.
    """
    sha256 = None
    if is_file(calibrant):
        path = Path(calibrant)
        name, source, content = path.stem, str(path), _bytes_of(path)
        sha256, text = hashlib.sha256(content).hexdigest(), _text_of(path, content)
        if path.suffix.lower() in (".yaml", ".yml"):
            own, of_pyfai, d = _entry(path, text)
            source += of_pyfai
            given = [n for n in (max_rings, own.max_rings) if n is not None]
            max_rings = min(given, default=None)
            purge_rings = (*own.purge_rings, *purge_rings)
        else:
            d = _listed(path, text)
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
    return Calibrant(name, source, d, used, sha256)


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


def _entry(path: Path, text: str) -> tuple[Entry, str, Floats]:
    """Return the content of a YAML file, the source of its d-spacings if pyFAI, and these."""
    import yaml

    try:
        entry = Entry.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        found = error.errors() if isinstance(error, ValidationError) else []
        wrong = [f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in found]
        raise HklflowError(
            f"{path} is no calibrant ({'; '.join(wrong) or ' '.join(str(error).split())}); write "
            "`calibrant` or `d_spacings`, and if needed `max_rings` and `purge_rings`"
        ) from None
    if (entry.calibrant is None) is (entry.d_spacings is None):
        raise HklflowError(
            f"{path} has {'neither' if entry.calibrant is None else 'both'} `calibrant` and "
            "`d_spacings`; write one of them"
        )
    if entry.calibrant is not None:
        source, d = _from_pyfai(entry.calibrant)
        return entry, f" ({entry.calibrant} of {source})", d
    assert entry.d_spacings is not None
    return entry, "", _decreasing([(f"d_spacings of {path}", str(d)) for d in entry.d_spacings])


def _bytes_of(path: Path) -> bytes:
    require_no_pipe(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise HklflowError(
            f"the d-spacings cannot be read from {path} ({error}); correct the path or the file"
        ) from error


def _text_of(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise HklflowError(
            f"the d-spacings cannot be read from {path} ({error}); correct the path or the file"
        ) from error


def _listed(path: Path, text: str) -> Floats:
    """Return the d-spacings of a file with one in each line."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    words = [(f"line {n} of {path}", line) for n, line in enumerate(lines, 1) if line]
    if not words:
        raise HklflowError(f"{path} has no d-spacings; write one in Å per line")
    return _decreasing(words)


def _decreasing(words: Sequence[tuple[str, str]]) -> Floats:
    """Return d-spacings (Å) from pairs of place and text; they must be positive and decrease."""
    values: list[float] = []
    for where, text in words:
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
                f"d = {text} in {where} is not below the value before ({values[-1]:g}); sort the "
                "list from the innermost ring outwards"
            )
        values.append(value)
    return np.array(values)
