"""Series of single images: CBF and SMV with useful headers; TIFF and EDF headers are ignored.

What a header leaves open is taken from the table of instruments (`formats.instruments`) or from
options; what it says and hklflow does not use is listed.

A series consists of the images of one folder whose names differ only in the last number. Wavelength
or distance in a TIFF header often come from an earlier experiment. A text log next to the images
can give angles, monitor and temperature (`formats.frame_log`).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Found, FoundScan, Request, Unmatched, joined
from hklflow.beamlines.grouping import Single, grouped, stated
from hklflow.beamlines.image_logs import from_log
from hklflow.beamlines.tree import (
    background_note,
    folders,
    is_experiment,
    looks_like_no_scan,
)
from hklflow.formats import smv as smv_header
from hklflow.formats.cbf_fields import Fields, head
from hklflow.formats.frame_log import read_log
from hklflow.formats.header import Header
from hklflow.formats.instruments import named
from hklflow.formats.raw import open_frames, read_header
from hklflow.formats.text_headers import Choices, parse_axis, parse_unit, parse_vector

IMAGE_OPTIONS = {
    "log": "text log of the frames, columns with units in the header line; {series} in its name "
    "is replaced by the series' name",
    "axis": "column of the log, or axis in headers, that is scanned (default: the moving one); "
    "with its angles in degrees if the headers have none: axis=phi=0:0.1",
    "least": "least number of images of a series (default 5)",
}
ARM_OPTION = {"arm": "axis of the detector's arm, a lab vector x,y,z"}
_HEADER_OPTIONS = {
    "instrument": "instrument whose conventions the headers follow, if they do not name it (see "
    "docs/instruments.md)",
    **ARM_OPTION,
    "transmission": "unit of the filters' transmission, fraction or percent; none: not used",
}


@dataclass(frozen=True)
class Series:
    """Images whose names differ only in their number."""

    folder: Path
    prefix: str
    suffix: str
    images: list[tuple[int, Path]]
    whole: "Series | None" = None
    """Series with images missing, of which this one is a part."""

    @property
    def stem(self) -> str:
        """Name of the series without number."""
        return self.prefix.rstrip("_-.") or self.folder.name

    @property
    def pattern(self) -> str:
        """Pattern of the series for the table of scans."""
        images = self.images if self.whole is None else self.whole.images
        digits = min(len(p.name) - len(self.prefix) - len(self.suffix) for _, p in images)
        part = "" if self.whole is None else f"[{self.images[0][0]}-{self.images[-1][0]}]"
        return str(self.folder / f"{self.prefix}{'#' * digits}{part}{self.suffix}")

    def absent(self) -> list[int]:
        """Return the numbers of the images that are missing."""
        numbers = [number for number, _ in self.images]
        return sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers))

    def parts(self) -> list["Series"]:
        """Return the series without missing images; of several, each is a part."""
        numbers = [number for number, _ in self.images]
        if not self.absent() or len(set(numbers)) < len(numbers):
            return [self]
        starts = [0, *(i for i in range(1, len(numbers)) if numbers[i] > numbers[i - 1] + 1)]
        ends = [*starts[1:], len(numbers)]
        return [
            replace(self, images=self.images[start:end], whole=self)
            for start, end in zip(starts, ends, strict=True)
        ]

    def fault(self) -> str:
        """Return why the numbers do not form a series; empty if they do."""
        numbers = [number for number, _ in self.images]
        twice = (
            sorted({n for n in numbers if numbers.count(n) > 1})
            if len(set(numbers)) < len(numbers)
            else []
        )
        if twice:
            return f"{len(twice)} numbers occur twice, for example {twice[0]}"
        if absent := self.absent():
            return f"{_missing(absent)}; copy them again"
        if any(mark in str(self.folder / self.prefix) for mark in "#*?[%"):
            return "its path contains a wildcard character (#, *, ?, [ or %); rename it"
        return ""


def _missing(absent: list[int]) -> str:
    shown = ", ".join(map(str, absent[:5])) + (" ..." if len(absent) > 5 else "")
    return f"{len(absent)} of the images are missing: {shown}"


@dataclass(frozen=True)
class ImageFiles:
    """Plugin for series of images."""

    name: str
    summary: str
    suffixes: tuple[str, ...]
    options: Mapping[str, str]
    reads: Literal["CBF", "SMV"] | None = None
    """Format of the headers that are used."""

    def find(self, request: Request) -> Found:
        """Search for scans; see `hklflow.beamlines.Beamline`."""
        least = self._least(request)
        log = self._log(request)
        singles: list[Single] = []
        taken: list[Series] = []
        unmatched: list[Unmatched] = []
        excluded: list[tuple[str, str]] = []
        short: list[str] = []
        series = list(self._series(request.source))
        if self._choices(request, log).step_deg is None:  # else the start is that of the first part
            series = [part for one in series for part in one.parts()]
        if not series:
            raise HklflowError(
                f"{request.source} has no numbered images *{' *'.join(self.suffixes)}; enter their "
                "folder"
            )
        for series_of_images in series:
            if not request.wants(series_of_images.stem):
                continue
            if request.scans is None and looks_like_no_scan(series_of_images.stem):
                excluded.append((series_of_images.stem, series_of_images.pattern))
                continue
            if len(series_of_images.images) < least and request.scans is None:
                short.append(f"{series_of_images.stem} ({len(series_of_images.images)})")
                continue
            try:
                singles.append(self._single(series_of_images, request, log))
                taken.append(series_of_images)
            except HklflowError as error:
                hints = () if log is None else (log,)
                unmatched.append(Unmatched(series_of_images.pattern, str(error), hints))
        notes: list[str] = []
        if self.reads == "CBF" and log is None and "transmission" not in request.options:
            singles = self._in_one_unit(taken, singles, request, notes)
        if excluded:
            notes.append(
                "left out, because their names do not look like scans; --scans NAME includes them: "
                f"{', '.join(stem for stem, _ in excluded)}"
            )
            notes += background_note(excluded)
        if short:
            notes.append(
                f"left out, because they have fewer than {least} images; --option least=1 or "
                f"--scans NAME includes them: {', '.join(short)}"
            )
        notes += self._unused(taken)
        return Found(
            tuple(grouped(request, singles)), unmatched=tuple(unmatched), notes=tuple(notes)
        )

    def _in_one_unit(
        self, series: list[Series], singles: list[Single], request: Request, notes: list[str]
    ) -> list[Single]:
        """Return the scans with the filters' transmission in one unit: per cent if one has it.

        A series alone leaves open whether 0.5 is a half or half a per cent; another one may tell.
        """
        divisors = [
            _divisor(one, single.found.header) for one, single in zip(series, singles, strict=True)
        ]
        if not {1, 100} <= set(divisors):
            return singles
        notes.append(
            "Filter_transmission is above 1 in some series, so it is taken in per cent in all"
        )
        in_percent = replace(request, options={**request.options, "transmission": "percent"})
        return [
            self._single(one, in_percent, None) if divisor == 1 else single
            for one, single, divisor in zip(series, singles, divisors, strict=True)
        ]

    @staticmethod
    def _least(request: Request) -> int:
        text = request.options.get("least", "5")
        if not text.isdecimal() or int(text) < 1:
            raise HklflowError(f"least is {text!r}, not a number of images; use 1 or more")
        return int(text)

    def _unused(self, series: list[Series]) -> list[str]:
        """Return a note about fields of headers that are not used, the same in many series once."""
        if self.reads is None:
            return []
        texts = [text for one in series for text in _unused(one, self.reads)]
        keys: dict[str, set[str]] = {}
        for key, _, value in (text.partition(" ") for text in texts):
            keys.setdefault(key, set()).add(value)
        shown = [f"{key} {next(iter(v))}" if len(v) == 1 else key for key, v in keys.items()]
        return [f"in the headers, but not used: {'; '.join(shown)}"] if shown else []

    def _choices(self, request: Request, log: str | None) -> Choices:
        """Return the options that are about headers; with a log, the axis is a column of it."""
        options = request.options
        axis, start, step = parse_axis(None if log is not None else options.get("axis"))
        name = options.get("instrument")
        return Choices(
            instrument=None if name is None or self.reads is None else named(self.reads, name),
            axis=axis,
            start_deg=start,
            step_deg=step,
            arm=parse_vector(options.get("arm")),
            transmission=parse_unit(options.get("transmission")),
        )

    @staticmethod
    def _log(request: Request) -> str | None:
        text = request.options.get("log")
        if text is not None and "{series}" not in text:
            request.path("log")
        return text

    def _series(self, source: Path) -> Iterator[Series]:
        if source.is_file():
            if not self._is_mine(source):
                raise HklflowError(f"{source} is not a file of *{' *'.join(self.suffixes)}")
            candidates = numbered([p for p in sorted(source.parent.iterdir()) if p.is_file()])
            yield from (s for s in candidates if source in [p for _, p in s.images])
            return
        for _, inside in folders(source, skip=is_experiment):
            yield from numbered([p for p in inside if self._is_mine(p) and p.is_file()])

    def _is_mine(self, path: Path) -> bool:
        """Return True for an image of this plugin, by its name; it may be compressed."""
        return plain_suffix(path) in self.suffixes

    def _facts(
        self, series: Series, request: Request, log: str | None
    ) -> tuple[Header, str, list[str]]:
        """Return header, goniometer settings and notes from the headers of a series."""
        choices = self._choices(request, log)
        header = read_header(series.pattern, choices)
        goniometer = ""
        notes = list(header.notes or ())
        if self.reads is not None:
            goniometer, remarks = _settings(series, header, choices, self.reads)
            notes += remarks
        if header.detector_doubt is not None:
            notes.append(header.detector_doubt)
        if self.reads == "CBF" and header.monitor is None and log is None:
            notes.append(
                "no monitor: if the experiment has none, set `import_scan: {monitor: none}`"
            )
        return header, goniometer, notes

    def _adds(self, request: Request, log: str | None) -> bool:
        """Return True if the user states facts that must be written to a light scan file."""
        return stated(request.facts) or self._choices(request, log).any()

    def _single(self, series: Series, request: Request, log: str | None) -> Single:
        if fault := series.fault():
            raise HklflowError(fault)
        with open_frames(series.pattern) as frames:
            shape = frames.shape
        header, goniometer, notes = self._facts(series, request, log)
        read = None
        if log is not None:
            read = read_log(Path(log.replace("{series}", series.stem)))
            whole = series if series.whole is None else series.whole
            facts, words, remarks = from_log(read, whole.images, request, series.images)
            header, goniometer = joined(facts, header), words or goniometer
            notes += remarks
        if series.whole is not None:
            notes.append(
                f"{_missing(series.whole.absent())}; the images before and after are imported as "
                "rotations of their own: if they exist, copy them and import again"
            )
        if goniometer:
            notes.append(
                "set the directions of its axes in `import_scan: axes` (an axis that is always at "
                "0 may be left out)"
            )
        return Single(
            FoundScan(
                "",
                "",
                "",
                series.pattern,
                joined(request.facts, header),
                (shape[1], shape[2]),
                light=read is not None or self._adds(request, log),
                goniometer=goniometer,
                where=str(Path(series.pattern).relative_to(_common(request.source))),
                notes=tuple(notes),
            ),
            series.stem,
        )


def _divisor(series: Series, header: Header) -> int | None:
    """Return 1 or 100, by which Filter_transmission was divided; None without it."""
    if header.transmission is None:
        return None
    fractions = np.ravel(header.transmission)
    at = int(np.argmax(fractions > 0))
    path = series.images[at][1]
    text = Fields(head(path), path).number("Filter_transmission") or 0.0
    return round(text / float(fractions[at]))


def plain_suffix(path: Path) -> str:
    """Return the suffix of an image, without that of its compression."""
    name = path.name.lower()
    for packed in (".gz", ".bz2"):
        name = name.removesuffix(packed)
    return Path(name).suffix


def _common(source: Path) -> Path:
    return source if source.is_dir() else source.parent


def numbered(files: list[Path]) -> list[Series]:
    """Return the series among the files of one folder."""
    groups: dict[tuple[str, str], Series] = {}
    for path in files:
        # The number is the last one of the name, or its suffix: `x_0001.cbf`, `x.0001`.
        match = re.fullmatch(
            r"(.*?)(\d+)(\D*\.[^.]*\D[^.]*?(?:\.(?:gz|bz2))?)", path.name, re.ASCII
        ) or re.fullmatch(r"(.+\.)(\d{3,})()", path.name, re.ASCII)
        if match is None:
            continue
        key = (match[1], match[3])
        series = groups.setdefault(key, Series(path.parent, match[1], match[3], []))
        series.images.append((int(match[2]), path))
    for series in groups.values():
        series.images.sort()
    return list(groups.values())


def _settings(
    series: Series, header: Header, choices: Choices, reads: Literal["CBF", "SMV"]
) -> tuple[str, list[str]]:
    """Return the goniometer's settings for the table, and notes; empty if the header has axes."""
    path = series.images[0][1]
    if header.goniometer is not None:
        return "", []
    if reads == "CBF":
        fields = Fields(head(path), path)
        settings, named = (
            fields.settings(choices.instrument_of("CBF", fields.text)),
            fields.scanned(),
        )
    else:
        keys = smv_header.keys_of(smv_header.head(path))
        named = smv_header.scanned(keys)
        # Every key is in every header: an axis at 0 changes nothing, and may not exist.
        settings = {
            name: angle
            for name, angle in smv_header.settings(keys, path).items()
            if angle and name != (choices.axis or named)
        }
    scanned = choices.axis or named
    known = header.start_deg is not None and header.step_deg is not None
    if known and scanned is not None:
        settings.pop(scanned, None)
        words = [f"{name}={value:.6g}" for name, value in settings.items()]
        return " ".join([*words, f"{scanned}={header.start_deg:.8g}:{header.step_deg:.8g}"]), []
    notes = []
    if not known and reads == "CBF":
        notes.append("the headers state no angles of the scan")
    if scanned is None and (settings or reads == "SMV"):
        notes.append("the header does not name the scan axis: --option axis=NAME")
    return "" if known else " ".join(f"{k}={v:.6g}" for k, v in settings.items()), notes


def _unused(series: Series, reads: Literal["CBF", "SMV"]) -> list[str]:
    """Return what the header of a series says and hklflow does not use."""
    path = series.images[0][1]
    if reads == "CBF":
        return Fields(head(path), path).unused()
    keys = smv_header.keys_of(smv_header.head(path))
    return [f"{key} {value}" for key, value in keys.items() if key not in smv_header.USED]


_OF_HEADERS = IMAGE_OPTIONS | _HEADER_OPTIONS
cbf = ImageFiles("cbf", "series of CBF images", (".cbf",), _OF_HEADERS, "CBF")
smv = ImageFiles("smv", "series of SMV images of ADSC detectors", (".img",), _OF_HEADERS, "SMV")
edf = ImageFiles("edf", "series of EDF images, with a log next to them", (".edf",), IMAGE_OPTIONS)
tiff = ImageFiles(
    "tiff", "series of TIFF images, with a log next to them", (".tif", ".tiff"), IMAGE_OPTIONS
)
