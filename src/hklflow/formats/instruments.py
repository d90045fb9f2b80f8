"""Table of instruments: what each means by the fields of its headers, and who says so.

It is the only place of such conventions; docs/instruments.md is made from it. A row is chosen by
the detector's serial number or another mark in the header, or by name (`--option instrument=NAME`).
What a header states itself (imgCIF axes, NeXus transformations) goes before the table.

Vectors are in the frame of imgCIF, as in the sources: x along the rotation axis, z from the sample
to the source, y up if x is horizontal. `TO_LAB` converts to the lab frame of `geometry.frames`.
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError

Vector = tuple[float, float, float]
Axes = tuple[tuple[str, Vector], ...]
"""Axes of a goniometer, name and direction with all angles at zero, the fixed axis first."""

Unit = Literal["fraction", "percent", "none"]
"""Unit of a transmission; none: the field is not used."""

TO_LAB = np.diag([-1.0, 1.0, -1.0])

_X, _Y, _MINUS_X = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (-1.0, 0.0, 0.0)
_MINUS_Y, _MINUS_Z = (0.0, -1.0, 0.0), (0.0, 0.0, -1.0)
_MINI_KAPPA: Axes = (("omega", _X), ("kappa", (0.914, 0.279, -0.297)), ("phi", _X))
_SMARGON: Axes = (("omega", _X), ("chi", _MINUS_Z), ("phi", _X))


@dataclass(frozen=True)
class Instrument:
    """Conventions of one instrument.

    Attributes
    ----------
    name : str
        Name for `--option instrument=NAME`.
    files : str
        Format of the files.
    where : str
        Facility, beamline, detector.
    marks : tuple of str
        Texts in the header, each of which identifies the instrument; empty: only by name.
    source : str
        Source of the convention.
    axes : Axes
        Axes of the goniometer; a single axis is the scanned axis, whatever its name.
    axes_if : (str, Axes) or None
        Other axes, if ``Oscillation_axis`` contains the text.
    kappa : str
        Direction (``+y``, ``-z`` ...) from the omega axis to the kappa axis, which are at the
        angle ``Alpha`` of the header; it counts if the header has Alpha and Kappa.
    chi_is_omega : bool
        True if the field ``Chi`` of a kappa goniometer is the angle of omega.
    arm : Vector or None
        Axis of the detector's arm.
    fast, slow : Vector
        Directions of the detector with its arm at zero.
    centred : bool
        True if the beam meets the centre of the detector with its arm at zero.
    transmission : str or None
        Unit of the transmission of filters; None: not known.
    beam : (str, str) or None
        SMV keys of the beam centre in mm (slow, fast); None: BEAM_CENTER_X and BEAM_CENTER_Y.
    since, until : str
        First day, and first day after the last, as ``2017-01-01``; empty: no limit.
    unsupported : str
        Reason why the detector cannot be reduced.
    remark : str
        Anything else that a user must know.
    """

    name: str
    files: Literal["CBF", "SMV", "HDF5"]
    where: str
    marks: tuple[str, ...]
    source: str
    axes: Axes = ()
    axes_if: tuple[str, Axes] | None = None
    kappa: str = ""
    chi_is_omega: bool = False
    arm: Vector | None = None
    fast: Vector = _X
    slow: Vector = _MINUS_Y
    centred: bool = False
    transmission: Unit | None = None
    beam: tuple[str, str] | None = None
    since: str = ""
    until: str = ""
    unsupported: str = ""
    remark: str = ""

    def valid(self, date: str) -> bool:
        """Return True if the row is valid at a date; an unknown date (empty) only without limit."""
        if not date:
            return not (self.since or self.until)
        return self.since <= date and (not self.until or date < self.until)

    def axes_of(self, oscillation: str, alpha: float) -> Axes:
        """Return the axes for the header's fields ``Oscillation_axis`` and ``Alpha`` (degrees)."""
        if self.axes_if is not None and self.axes_if[0] in oscillation.upper():
            return self.axes_if[1]
        if self.kappa and alpha:
            out = math.copysign(math.sin(math.radians(alpha)), float(f"{self.kappa[0]}1"))
            tilted = [math.cos(math.radians(alpha)), 0.0, 0.0]
            tilted["xyz".index(self.kappa[1])] += out
            return (("omega", _X), ("kappa", (tilted[0], tilted[1], tilted[2])), ("phi", _X))
        return self.axes


def to_lab(vector: ArrayLike) -> NDArray[np.float64]:
    """Convert directions (..., 3) of the table to the lab frame."""
    return np.asarray(vector, np.float64) @ TO_LAB.T


def recognised(files: str, header: str) -> Instrument | None:
    """Return the instrument that wrote a header; None if it is not in the table.

    Parameters
    ----------
    files : str
        Format of the file.
    header : str
        Text of the header.
    """
    date = date_of(header)
    for row in INSTRUMENTS:
        if row.files == files and row.valid(date) and any(mark in header for mark in row.marks):
            return row
    return None


def named(files: str, name: str) -> Instrument:
    """Return the instrument with a name.

    Raises
    ------
    HklflowError
        If no instrument of this format has the name.
    """
    rows = {row.name: row for row in INSTRUMENTS if row.files == files}
    if name not in rows:
        raise HklflowError(
            f"instrument {name!r} is not in the table of {files} files; use one of "
            f"{', '.join(sorted(rows))}"
        )
    return rows[name]


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(r"\b(19\d\d|20\d\d)[-/](\d\d|[A-Za-z]{3})[-/](\d\d)[T ]")
_DATE_SMV = re.compile(r"\b([A-Z][a-z]{2}) +(\d{1,2}) +\d\d:\d\d:\d\d[A-Z .\d]*? (19\d\d|20\d\d)\b")


def date_of(header: str) -> str:
    """Return the date of a header as ``2017-01-31``; empty if it states none."""
    if match := _DATE.search(header):
        year, month, day = match.groups()
    elif match := _DATE_SMV.search(header):
        month, day, year = match.groups()
    else:
        return ""
    if not month.isdecimal():
        if month.lower() not in _MONTHS:
            return ""
        month = f"{_MONTHS.index(month.lower()) + 1:02d}"
    return f"{year}-{month}-{int(day):02d}"


def _dxtbx(name: str) -> str:
    return f"dxtbx, format class Format{name}"


def _cbf(
    name: str, where: str, marks: str | tuple[str, ...], source: str, **more: object
) -> Instrument:
    texts = (marks,) if isinstance(marks, str) else marks
    return Instrument(name, "CBF", where, texts, source, **more)  # type: ignore[arg-type]


def _smv(name: str, where: str, number: tuple[int, ...], source: str, **more: object) -> Instrument:
    texts = tuple(f"DETECTOR_SN={n};" for n in number)
    return Instrument(name, "SMV", where, texts, source, **more)  # type: ignore[arg-type]


def _hdf5(name: str, where: str, marks: tuple[str, ...], source: str, **more: object) -> Instrument:
    return Instrument(name, "HDF5", where, marks, source, **more)  # type: ignore[arg-type]


_COMCIFS = "COMCIFS instrument-geometry-info"
_REVERSED: Axes = (("omega", _MINUS_X),)
_VERTICAL: Axes = (("omega", _Y),)
_HORIZONTAL: Axes = (("omega", _X),)

INSTRUMENTS: tuple[Instrument, ...] = (
    _cbf(
        "DLS-I19-1",
        "Diamond I19-1, PILATUS 2M",
        "S/N 24-0107 Diamond",
        "imgCIF axes in its headers; Zenodo 10.5281/zenodo.51405",
        axes=(("omega", _X), ("phi", (0.5774, -0.8165, 0.0))),
        arm=_X,
        fast=_Y,
        slow=_X,
        transmission="percent",
        remark="phi is inclined by the fixed chi of -54.7 degrees",
    ),
    _cbf(
        "DLS-I04",
        "Diamond I04, PILATUS 6M, mini-kappa",
        "S/N 60-0100 Diamond",
        _dxtbx("CBFMiniPilatusDLS6MSN100"),
        axes=_MINI_KAPPA,
    ),
    _cbf(
        "DLS-I03",
        "Diamond I03, PILATUS3 6M, mini-kappa",
        "S/N 60-0126",
        _dxtbx("CBFMiniPilatusDLS6MSN126"),
        axes=_MINI_KAPPA,
    ),
    _cbf(
        "DLS-EIGER-160",
        "Diamond, EIGER 16M 160-0001, SmarGon",
        "S/N 160-0001",
        _dxtbx("CBFMiniEigerDLS16MSN160"),
        axes=_SMARGON,
    ),
    _cbf(
        "DLS-VMXi",
        "Diamond VMXi, PILATUS3 6M",
        "S/N 60-0114",
        _dxtbx("CBFMiniPilatusDLS6MSN114"),
        axes=_VERTICAL,
        since="2017-01-01",
    ),
    _cbf(
        "DLS-I24",
        "Diamond I24, PILATUS3 6M",
        "S/N 60-0119",
        _dxtbx("CBFMiniPilatusDLS6MSN119"),
        axes=_VERTICAL,
        axes_if=("FAST", _REVERSED),
        since="2015-01-01",
        remark="Oscillation_axis +FAST and -FAST are the plate holder, about -x",
    ),
    _cbf(
        "DLS-I23",
        "Diamond I23, PILATUS 12M",
        "S/N 120-0100",
        _dxtbx("CBFMiniPilatusDLS12M"),
        axes=_REVERSED,
        kappa="-y",
        unsupported="the detector is a half cylinder of 24 banks; hklflow reduces flat detectors",
        remark="before April 2016 one reversed axis, later kappa with alpha 50 degrees",
    ),
    _cbf(
        "SOLEIL-PX1",
        "SOLEIL PROXIMA 1, PILATUS 6M",
        "S/N 60-0106, Soleil",
        _dxtbx("CBFMiniPilatusSOLEILPX16MSN106"),
        axes=_SMARGON,
        kappa="+z",
        chi_is_omega=True,
        remark="with Alpha and Kappa in the header, the field Chi is the angle of omega",
    ),
    _cbf(
        "SPring8-BL41XU",
        "SPring-8 BL41XU, PILATUS3 6M",
        "S/N 60-0125",
        _dxtbx("CBFMiniPilatusSPring8_6MSN125"),
        axes=_REVERSED,
    ),
    _cbf(
        "CHESS-F1",
        "CHESS F1, PILATUS3 6M",
        "S/N 60-0127",
        _dxtbx("CBFMiniPilatusCHESS_6MSN127"),
        axes=_REVERSED,
    ),
    _cbf(
        "CHESS-ID7B2",
        "CHESS ID7B2, EIGER2 16M",
        "S/N E-32-0123",
        _dxtbx("CBFMiniEigerChessID7B2"),
        axes=_REVERSED,
    ),
    _cbf(
        "APS-19ID",
        "APS 19-ID, PILATUS3 6M",
        "S/N 60-0132",
        _dxtbx("CBFMiniPilatus3APS19ID6MSN132"),
        axes=_REVERSED,
    ),
    _cbf(
        "PETRA-P14",
        "PETRA III P14, PILATUS 6M-F",
        "S/N 60-0115-F",
        _dxtbx("CBFMiniPilatusDESY6MSN115"),
        axes=_VERTICAL,
    ),
    _cbf(
        "PETRA-P14-EIGER",
        "PETRA III P14, EIGER 16M until May 2021",
        "S/N E-32-0107",
        _dxtbx("CBFMiniEigerPetraP14"),
        axes=_VERTICAL,
        until="2021-05-22",
    ),
    _cbf(
        "PETRA-P14-EIGER2",
        "PETRA III P14, EIGER2 16M",
        "S/N E-32-0129",
        _dxtbx("CBFMiniEigerPetraP14"),
        axes=_VERTICAL,
        since="2021-05-22",
    ),
    _cbf(
        "MAXIV-BioMAX",
        "MAX IV BioMAX, EIGER 16M",
        "S/N E-32-0105",
        _dxtbx("CBFMiniEigerMaxIVBio"),
        axes=_VERTICAL,
    ),
    _cbf(
        "SSRF-BL17U1",
        "SSRF BL17U1, EIGER 16M",
        "S/N E-32-0111",
        _dxtbx("CBFMiniEigerReverse"),
        axes=_REVERSED,
    ),
    _cbf(
        "SSRF-BL18U1",
        "SSRF BL18U1, PILATUS3 6M",
        "S/N 60-0123",
        _dxtbx("CBFMiniPilatusReverse"),
        axes=_REVERSED,
    ),
    _cbf(
        "SSRF-BL19U1",
        "SSRF BL19U1, PILATUS3 6M",
        (),
        _dxtbx("CBFMiniPilatusReverse"),
        axes=_REVERSED,
        remark="its serial number XX-XXX is that of any detector that nobody configured",
    ),
    _cbf(
        "Stoe-Stadivari",
        "Stoe Stadivari, PILATUS 100K",
        "Stoe&Cie",
        f"{_COMCIFS}, block stoe_stadivari; dxtbx issue 628",
        axes=_SMARGON,
        arm=_X,
        fast=_MINUS_Y,
        slow=_MINUS_X,
        centred=True,
        remark="Beam_xy is absent; the thickness of the sensor has the wrong unit and is not used",
    ),
    _cbf(
        "ESRF-ID23",
        "ESRF ID23, PILATUS 6M",
        (),
        f"{_COMCIFS}, block esrf_id23 (Zenodo 3816663)",
        axes=_HORIZONTAL,
        arm=_X,
    ),
    _cbf(
        "BESSY-14.2",
        "BESSY II 14.2, PILATUS 2M",
        (),
        f"{_COMCIFS}, block HZB_BESSY_14_2 (SBGrid 952)",
        axes=_HORIZONTAL,
        arm=_X,
    ),
    _smv(
        "ALS-8.3.1-Q210",
        "ALS 8.3.1, ADSC Q210 until May 2006",
        (442,),
        _dxtbx("SMVADSCSN442"),
        axes=_HORIZONTAL,
        beam=("DENZO_X_BEAM", "DENZO_Y_BEAM"),
        until="2006-05-14",
    ),
    _smv(
        "ADSC-445",
        "ADSC Q210, serial number 445",
        (445,),
        _dxtbx("SMVADSCSN445"),
        axes=_HORIZONTAL,
        beam=("DENZO_XBEAM", "DENZO_YBEAM"),
    ),
    _smv(
        "AS-MX1",
        "Australian Synchrotron MX1, ADSC Q210r",
        (457,),
        f"{_dxtbx('SMVADSCSN457')}; {_COMCIFS}, block AustralianSynchrotron_MX1",
        axes=_REVERSED,
    ),
    _smv(
        "AS-MX2",
        "Australian Synchrotron, ADSC Q315r",
        (928,),
        _dxtbx("SMVADSCSN928"),
        axes=_REVERSED,
    ),
    _smv(
        "ADSC-905",
        "ADSC Q315, serial number 905",
        (905,),
        _dxtbx("SMVADSCSN905"),
        axes=_HORIZONTAL,
        beam=("DENZO_XBEAM", "DENZO_YBEAM"),
    ),
    _smv(
        "SPring8-BL38B1",
        "SPring-8 BL38B1, ADSC Q315",
        (915,),
        _dxtbx("SMVADSCSN915"),
        axes=_REVERSED,
    ),
    _smv(
        "DLS-I03-Q315",
        "Diamond I03, ADSC Q315",
        (920,),
        _dxtbx("SMVADSCSN920"),
        axes=_HORIZONTAL,
    ),
    _smv(
        "APS-19ID-ADSC",
        "APS 19-ID, ADSC 458 and 914",
        (458, 914),
        f"{_dxtbx('SMVADSCSNAPSID19')}; {_COMCIFS}, block 19ID_APS",
        axes=_REVERSED,
        remark="dxtbx takes the beam from ..._SPATIAL_BEAM_POSITION: give a calibration",
        unsupported="its beam centre is not in BEAM_CENTER_X and BEAM_CENTER_Y",
    ),
    Instrument(
        "SPring8-BL32XU",
        "SMV",
        "SPring-8 BL32XU, Hamamatsu C10158DK",
        ("DETECTOR_NAME=Hamamatsu C10158DK;",),
        _dxtbx("SMVHamamatsuSPring8BL32XU"),
        axes=_REVERSED,
    ),
    _hdf5(
        "ESRF-ID23-2",
        "ESRF ID23-2, EIGER 9M",
        ("E-18-0133",),
        _dxtbx("NXmxEigerFilewriterESRFID232"),
        axes=_VERTICAL,
    ),
    _hdf5(
        "SPring8-EIGER",
        "SPring-8, EIGER 16M and 9M",
        ("E-32-0114", "E-32-0112", "E-18-0103"),
        _dxtbx("HDF5EigerNearlyNexusSPring8"),
        axes=_REVERSED,
    ),
)
