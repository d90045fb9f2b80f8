"""What instruments write: scans that are found in the files of a beamline.

A beamline is a plugin: an object with `Beamline`'s names, made known by an entry point of the
group ``hklflow.beamlines`` (docs/beamline_plugin.md). It looks, reads and reports; what is written
is `hklflow import`'s matter, so that all plugins write the same and none writes into raw data.
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
    """What the user asks for; None or empty: not said.

    Attributes
    ----------
    source : Path
        File or folder to look in.
    raw : str or None
        Where the frames are, if not where they usually are: a folder, or a pattern as in the table
        of scans, with ``{scan}`` for the scan's number and whatever else the plugin says.
    scans : frozenset of str or None
        The beamline's own names or numbers of the scans wanted; None: all.
    sample : str or None
        Name of the sample, goes before what the files say.
    monitor, attenuator : str or None
        The beamline's names of what counts incident photons, and of the attenuators' transmission.
    facts : Header
        What the user states of all scans (polarisation, saturation, temperature ...); it goes
        before what the files say.
    options : mapping of str
        The plugin's own options, see `Beamline.options`.
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
        """Whether a scan of this name or number is asked for."""
        return self.scans is None or str(scan) in self.scans

    def path(self, option: str) -> Path | None:
        """Option that names a file, which must be there.

        Raises
        ------
        HklflowError
            If it is not.
        """
        text = self.options.get(option)
        if text is None:
            return None
        if not Path(text).is_file():
            raise HklflowError(f"{option} is {text!r}, which is no file; check the path")
        return Path(text)


@dataclass(frozen=True)
class FoundScan:
    """One rotation, found with its frames.

    Attributes
    ----------
    sample, scan, rotation : str
        Names for the tables; see `name` for how any text becomes one.
    raw : str
        HDF5 file, or pattern of a series of images.
    header : Header
        All that is known: what the raw file says itself, and what other files say. ``n_frames``
        must be known if ``light``.
    shape : (slow, fast)
        Pixels of a frame.
    light : bool
        Whether something is known that the raw file does not say itself, so that a light scan file
        must be written. Without it the row names the raw file itself.
    datasets : tuple of (file, path in it)
        Frames of HDF5 files in order, if they are elsewhere than readers of raw files look.
    parent : str
        Scan of the same sample from which this one starts; empty: its own, or by the tables.
    calibration : str
        Entry of ``calibrations`` of the configuration; empty: the header's own geometry.
    goniometer : str
        Settings as the table of scans has them, ``chi=54.7 phi=0:0.1`` in degrees, of axes whose
        directions only the configuration knows; empty: as the header says.
    ub : (3, 3) array or None
        Orientation in the goniometer's frame, 1/Å with 2π; a start of refinement.
    space_group : str or None
        That goes with ``ub``.
    where : str
        Where it was found, for messages, such as ``scan 839 of x.spec``.
    notes : tuple of str
        What the user should know: guesses, what was left out, what looks odd.
    original : (sample, scan, rotation)
        What the files or the user call them, of which `name` made the names; empty: another
        source. By these `hklflow import` sees that two crystals would get one name.
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
    """What files say of a sample; goes into a new row of the table of samples."""

    space_group: str | None = None
    cell: tuple[float, float, float, float, float, float] | None = None
    formula: str = ""


@dataclass(frozen=True)
class Unmatched:
    """Something that looks like a scan and cannot be imported."""

    what: str
    why: str
    candidates: tuple[str, ...] = ()
    """What it might be, nearest first."""


@dataclass(frozen=True)
class Found:
    """All that was found.

    Attributes
    ----------
    scans : tuple of FoundScan
    samples : mapping of str to FoundSample
    unmatched : tuple of Unmatched
    general : mapping
        What files say of how all scans are to be reduced, as sections of the configuration:
        section -> key -> value.
    settings : mapping
        What they say of single scans, as ``per_scan`` of the configuration:
        ``sample/scan`` -> section -> key -> value.
    notes : tuple of str
        One line each, such as how many scans of other kinds there are.
    """

    scans: tuple[FoundScan, ...] = ()
    samples: Mapping[str, FoundSample] = field(default_factory=dict)
    unmatched: tuple[Unmatched, ...] = ()
    general: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@runtime_checkable
class Beamline(Protocol):
    """A plugin. ``options`` has the names of its own options and what they mean."""

    name: str
    summary: str
    options: Mapping[str, str]

    def find(self, request: Request) -> Found:
        """Look for scans; reads only.

        Raises
        ------
        HklflowError
            If the source is not of this beamline, cannot be read, or an option makes no sense.
            A scan that cannot be used is `Unmatched`, not an error.
        """
        ...


def known() -> dict[str, str]:
    """Names of all plugins that are installed, and where each comes from."""
    return {point.name: point.value for point in sorted(entry_points(group=GROUP))}


def beamline(name: str) -> Beamline:
    """Load a plugin by its name.

    Raises
    ------
    HklflowError
        If there is none of this name, it cannot be loaded, or it lacks what a plugin must have.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if len(points) != 1:
        what = "there is no" if not points else f"there are {len(points)} plugins for"
        raise HklflowError(f"{what} beamline {name!r}; known are {', '.join(known())}")
    try:
        plugin = points[0].load()
    # Whatever a module of others does when it is imported; it may want to end the program, too.
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
    """Name of a sample, scan or rotation, from any text: what files cannot be called is a dash.

    Raises
    ------
    HklflowError
        If nothing is left.
    """
    found = re.sub(r"[^A-Za-z0-9.+]+", "-", text).strip("-.+")
    if not found:
        raise HklflowError(f"{text!r} has no letter or digit to make a name of; give one")
    return found


def scan_name(temperature: float | None, otherwise: str) -> str:
    """Name of a scan by its temperature in K, such as 300K or 12.5K."""
    return name(otherwise) if temperature is None else f"{temperature:.6g}K"


def joined(*headers: Header) -> Header:
    """Header with the facts of all; of two that differ the first."""
    found = Header()
    for header in reversed(headers):
        said = {f.name: getattr(header, f.name) for f in fields(Header)}
        found = replace(found, **{key: value for key, value in said.items() if value is not None})
    return found


def rotation_of(header: Header) -> Rotation | None:
    """Geometry of a rotation; None if not all of it is known."""
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
    # The polarisation has no part in where reflections are.
    beam = Beam(h.wavelength, 0.5 if h.polarization is None else h.polarization)
    scan = Scan(float(np.radians(h.start_deg)), float(np.radians(h.step_deg)), h.n_frames)
    return Rotation(beam, h.detector, h.goniometer, scan)
