"""Plugins that find scans in the files of a beamline.

A beamline is an object with the attributes of `Beamline`, registered by an entry point in the group
``hklflow.beamlines`` (docs/beamline_plugin.md). It only searches and reads; `hklflow import`
writes, so that the output is the same for all plugins and no plugin writes into raw data.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.formats.header import Header
from hklflow.geometry import Beam, Rotation, Scan

GROUP = "hklflow.beamlines"


@dataclass(frozen=True)
class Request:
    """Request of the user; None or empty: not stated.

    Attributes
    ----------
    source : Path
        File or folder to be searched.
    raw : str or None
        Location of the frames, if it is not the usual one: a folder, or a pattern as in the table
        of scans, with ``{scan}`` for the scan's number and other fields of the plugin.
    scans : frozenset of str or None
        Requested scans, by the beamline's names or numbers; None: all.
    sample : str or None
        Name of the sample; it overrides the name in the files.
    monitor, attenuator : str or None
        The beamline's names for the monitor and for the attenuators' transmission.
    facts : Header
        Facts that the user states for all scans (polarisation, saturation, temperature ...); they
        override the facts in the files.
    options : mapping of str
        Options of the plugin, see `Beamline.options`.
    """

    source: Path
    raw: str | None = None
    scans: frozenset[str] | None = None
    sample: str | None = None
    monitor: str | None = None
    attenuator: str | None = None
    facts: Header = field(default_factory=Header)
    options: Mapping[str, str] = field(default_factory=dict)

    def wants(self, scan: str | int) -> bool:
        """Return True if the scan with this name or number is requested."""
        return self.scans is None or str(scan) in self.scans

    def path(self, option: str) -> Path | None:
        """Return the path in an option, which must be an existing file.

        Raises
        ------
        HklflowError
            If the file does not exist.
        """
        text = self.options.get(option)
        if text is None:
            return None
        if not Path(text).is_file():
            raise HklflowError(f"{option} is {text!r}, which is not a file; check the path")
        return Path(text)


@dataclass(frozen=True)
class FoundScan:
    """One rotation that was found, with its frames.

    Attributes
    ----------
    sample, scan, rotation : str
        Names for the tables; `name` converts any text to such a name.
    raw : str
        HDF5 file, or pattern of a series of images.
    header : Header
        All known facts from the raw file and other files. ``n_frames`` is required if ``light``
        is True.
    shape : (slow, fast)
        Number of pixels of a frame.
    light : bool
        True if other files contribute facts, so that a light scan file must be written. If False,
        the row names the raw file itself.
    datasets : tuple of (file, path in it)
        HDF5 datasets of the frames in order, if they are not at the usual place.
    parent : str
        Scan of the same sample that is the parent; empty: the scan itself, or as in the tables.
    calibration : str
        Entry of ``calibrations`` in the configuration; empty: the geometry in the header.
    goniometer : str
        Goniometer settings as in the table of scans, ``chi=54.7 phi=0:0.1`` in degrees, for axes
        with directions only in the configuration; empty: as in the header.
    ub : (3, 3) array or None
        Orientation in the goniometer's frame, 1/Å with 2π; the start of the refinement.
    space_group : str or None
        Space group that belongs to ``ub``.
    where : str
        Location for messages, for example ``scan 839 of x.spec``.
    notes : tuple of str
        Notes for the user: guesses, omissions, oddities.
    original : (sample, scan, rotation)
        Original texts of the three names in the files or from the user; empty: from another
        source. `hklflow import` uses them to detect crystals that would get the same name.
    """

    sample: str
    scan: str
    rotation: str
    raw: str
    header: Header
    shape: tuple[int, int]
    light: bool = True
    datasets: tuple[tuple[str, str], ...] = ()
    parent: str = ""
    calibration: str = ""
    goniometer: str = ""
    ub: NDArray[np.float64] | None = None
    space_group: str | None = None
    where: str = ""
    notes: tuple[str, ...] = ()
    original: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True)
class FoundSample:
    """Facts about a sample from files, for a new row of the table of samples."""

    space_group: str | None = None
    cell: tuple[float, float, float, float, float, float] | None = None
    formula: str = ""


@dataclass(frozen=True)
class Unmatched:
    """An item that looks like a scan but cannot be imported."""

    what: str
    why: str
    candidates: tuple[str, ...] = ()
    """Possible matches, nearest first."""


@dataclass(frozen=True)
class Found:
    """Complete result of a search.

    Attributes
    ----------
    scans : tuple of FoundScan
    samples : mapping of str to FoundSample
    unmatched : tuple of Unmatched
    general : mapping
        Settings for all scans from the files, as sections of the configuration:
        section -> key -> value.
    settings : mapping
        Settings for single scans, as ``per_scan`` of the configuration:
        ``sample/scan`` -> section -> key -> value.
    notes : tuple of str
        One line each, for example the number of other scans.
    """

    scans: tuple[FoundScan, ...] = ()
    samples: Mapping[str, FoundSample] = field(default_factory=dict)
    unmatched: tuple[Unmatched, ...] = ()
    general: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@runtime_checkable
class Beamline(Protocol):
    """Interface of a plugin; ``options`` maps the names of its options to their descriptions."""

    name: str
    summary: str
    options: Mapping[str, str]

    def find(self, request: Request) -> Found:
        """Search for scans, without writing.

        Raises
        ------
        HklflowError
            If the source is not from this beamline, cannot be read, or an option is invalid. A
            scan that cannot be used is `Unmatched`, not an error.
        """
        ...


def known() -> dict[str, str]:
    """Return the names of all installed plugins, and where each comes from."""
    return {point.name: point.value for point in sorted(entry_points(group=GROUP))}


def beamline(name: str) -> Beamline:
    """Load a plugin by its name.

    Raises
    ------
    HklflowError
        If there is no such plugin, it cannot be loaded, or a required attribute is missing.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if len(points) != 1:
        what = "there is no" if not points else f"there are {len(points)} plugins for"
        raise HklflowError(
            f"{what} beamline {name!r}; use one of {', '.join(known())}, or see "
            "docs/my_instrument.md"
        )
    try:
        plugin = points[0].load()
    # An imported plugin may raise anything, or try to end the program.
    except (Exception, SystemExit) as error:
        raise HklflowError(
            f"the plugin of beamline {name}, {points[0].value}, cannot be loaded "
            f"({type(error).__name__}: {error}); install it again"
        ) from error
    if not isinstance(plugin, Beamline):
        missing = [n for n in ("name", "summary", "options", "find") if not hasattr(plugin, n)]
        raise HklflowError(
            f"the plugin of beamline {name}, {points[0].value}, has no {', '.join(missing)}; see "
            "docs/beamline_plugin.md"
        )
    return plugin


def name(text: str) -> str:
    """Convert a text to a name of a sample, scan or rotation: characters not allowed become dashes.

    Raises
    ------
    HklflowError
        If no character is left.
    """
    cleaned = re.sub(r"[^A-Za-z0-9.+]+", "-", text).strip("-.+")
    if not cleaned:
        raise HklflowError(f"{text!r} has no letter or digit for a name; use another name")
    return cleaned


def scan_name(temperature: float | None, otherwise: str) -> str:
    """Return the name of a scan from its temperature in K, for example 300K or 12.5K."""
    return name(otherwise) if temperature is None else f"{temperature:.6g}K"


def joined(*headers: Header) -> Header:
    """Combine headers; a fact in several headers is from the first."""
    result = Header()
    for header in reversed(headers):
        facts = {f.name: getattr(header, f.name) for f in fields(Header)}
        result = replace(
            result, **{key: value for key, value in facts.items() if value is not None}
        )
    return result


def rotation_of(header: Header) -> Rotation | None:
    """Return the geometry of a rotation; None if a part is unknown."""
    h = header
    if (
        h.wavelength is None
        or h.detector is None
        or h.goniometer is None
        or h.start_deg is None
        or h.step_deg is None
        or h.n_frames is None
    ):
        return None
    # The polarisation does not change the positions of reflections.
    beam = Beam(h.wavelength, 0.5 if h.polarization is None else h.polarization)
    scan = Scan(float(np.radians(h.start_deg)), float(np.radians(h.step_deg)), h.n_frames)
    return Rotation(beam, h.detector, h.goniometer, scan)
