"""Location of the images of a SPEC scan: by a template, or by searching below a folder.

A series belongs to a scan if its name, or its folder's name, contains the scan's number and it has
one image for each point. Partial matches are reported as candidates, but never used.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Request
from hklflow.beamlines.images import Series, numbered
from hklflow.beamlines.tree import folders, is_experiment
from hklflow.formats.light import is_light
from hklflow.formats.raw import HDF5_SUFFIXES, IMAGE_SUFFIXES, open_frames

_MOST_TOLD = 3


@dataclass(frozen=True)
class Place:
    """Possible frames of a scan: a series of images or one HDF5 file."""

    pattern: str
    n_frames: int
    fault: str = ""

    def __str__(self) -> str:
        return f"{self.pattern} ({self.n_frames} frames{', ' + self.fault if self.fault else ''})"


class NotFoundError(Exception):
    """No frames, or too many; ``candidates`` are possible matches, nearest first."""

    def __init__(self, why: str, candidates: Sequence[str] = ()) -> None:
        super().__init__(why)
        self.candidates = tuple(candidates)


@dataclass(frozen=True)
class Images:
    """Frames of the scans of one SPEC file."""

    request: Request

    @property
    def stem(self) -> str:
        """Name of the SPEC file without suffix."""
        return self.request.source.stem

    def of(self, number: int, n_points: int) -> str:
        """Return the file or pattern of the frames of a scan.

        Raises
        ------
        NotFoundError
            If no series matches, or more than one does.
        HklflowError
            If the template is invalid.
        """
        if self._template is not None:
            return self._from_template(self._template, number, n_points)
        mine = [p for p in self._places if _has(number, p.pattern, self._top)]
        whole = [p for p in mine if p.n_frames == n_points and not p.fault]
        if len(whole) > 1:
            # The SPEC file's name distinguishes series with the same number.
            named = [p for p in whole if self.stem in p.pattern.removeprefix(str(self._top))]
            whole = named or whole
        if len(whole) == 1:
            return whole[0].pattern
        if whole:
            raise NotFoundError(
                f"{len(whole)} series have its number and {n_points} frames; select one: --raw",
                [str(p) for p in whole],
            )
        if mine:
            raise NotFoundError(
                f"it has {n_points} points, and no series with its number has as many frames",
                [str(p) for p in sorted(mine, key=lambda p: abs(p.n_frames - n_points))],
            )
        raise NotFoundError(
            f"no images with its number (for {n_points} points) below {self._top}",
            self._nearest(number, n_points),
        )

    def _nearest(self, number: int, n_points: int) -> list[str]:
        named = {Path(p.pattern).name: p for p in self._places}
        close = get_close_matches(f"{self.stem}_S{number}_#####.tif", named, _MOST_TOLD, 0.4)
        counted = [p for p in self._places if p.n_frames == n_points]
        ordered = [*counted, *(named[name] for name in close)]
        return [str(p) for p in dict.fromkeys(ordered)][:_MOST_TOLD]

    @cached_property
    def _template(self) -> str | None:
        raw = self.request.raw
        return None if raw is None or Path(raw).is_dir() else raw

    @cached_property
    def _top(self) -> Path:
        raw = self.request.raw
        return self.request.source.parent if raw is None else Path(raw).absolute()

    def filled(self, template: str, number: int) -> str:
        """Fill the scan's number into a template; it may have a format: ``{scan:04d}``.

        Raises
        ------
        HklflowError
            If the template has other fields.
        """
        try:
            return template.format(spec=self.stem, scan=number)
        except (LookupError, ValueError) as error:
            raise HklflowError(
                f"--raw {template!r} cannot be filled in ({error}); use {{spec}} and {{scan}} or "
                "{scan:04d}, and # for the digits of the image"
            ) from None

    def _from_template(self, template: str, number: int, n_points: int) -> str:
        text = self.filled(template, number)
        # Relative to the current folder, or to the SPEC file.
        choices = dict.fromkeys([Path(text).absolute(), self.request.source.parent / text])
        errors = []
        for path in choices:
            try:
                with open_frames(str(path)) as frames:
                    n_frames = frames.shape[0]
            except HklflowError as error:
                errors.append(str(error))
                continue
            if n_frames != n_points:
                raise NotFoundError(f"it has {n_points} points, and {path} has {n_frames} frames")
            return str(path)
        raise NotFoundError("; ".join(errors))

    @cached_property
    def _places(self) -> list[Place]:
        """All series and HDF5 files below the folder."""
        places = []
        for _, inside in folders(self._top, skip=lambda folder, beside: is_experiment(folder)):
            files = [p for p in inside if p.is_file()]
            images = numbered([p for p in files if p.suffix.lower() in IMAGE_SUFFIXES])
            places += [_place(series) for series in images]
            stacks = [p for p in files if p.suffix.lower() in HDF5_SUFFIXES and not is_light(p)]
            places += [place for p in stacks if (place := _stack(p)) is not None]
        return places


def _place(series: Series) -> Place:
    return Place(series.pattern, len(series.images), series.fault())


def _stack(path: Path) -> Place | None:
    try:
        with open_frames(path) as frames:
            return Place(str(path), frames.shape[0])
    except HklflowError:
        return None  # an HDF5 file without frames


def _has(number: int, pattern: str, top: Path) -> bool:
    """Return True if a name, or else its folder, has a scan's number, with or without zeros."""
    path = Path(pattern)
    plain = re.compile(rf"(?<![\d.])0*{number}(?![\d.])")
    stem = path.name[: -len(path.suffix)].rstrip("#")
    if plain.search(stem):
        return True
    return path.parent != top and plain.search(path.parent.name) is not None
