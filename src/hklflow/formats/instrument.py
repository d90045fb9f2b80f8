"""Instrument files: the template from which scan files are made before they are measured.

An instrument file is an NXmx file without frames: beam, detector with its mask, and the axes of the
goniometer. ``/entry/instrument/calibration`` has the powder image of the geometry with its profile
and the parameters of pyFAI, under NXRefine's names. Names of instrument files end in `SUFFIX`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file
from hklflow.formats.hdf5_file import open_file
from hklflow.formats.header import Header
from hklflow.formats.light import CALIBRATION
from hklflow.formats.nxfile import find, numbers, word
from hklflow.formats.nxmx import read_nexus_header
from hklflow.formats.poni import poni_unmirrored
from hklflow.formats.raw_frames import Frames
from hklflow.formats.write_raw import NXmxWriter, described
from hklflow.geometry import reach

SUFFIX = ".instrument.nxs"
_SIZE = "entry/instrument/detector/module/data_size"
_POWDER = "entry/powder"  # in the product of a powder calibration
_PARAMETERS = f"{CALIBRATION}/refinement/parameters"
_SAME = 1e-7  # metres and radians between stored and recomputed parameters


class _NoFrames(Frames):
    """Frames that are still to be measured."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape, self.dtype, self.files = (1, *shape), np.dtype(np.uint32), []

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class Instrument:
    """Content of an instrument file.

    Attributes
    ----------
    header : Header
        Beam, detector and goniometer; nothing of a scan.
    shape : (slow, fast)
    calibrant : str or None
        Calibrant of the powder data; None: the file has no powder data.
    """

    header: Header
    shape: tuple[int, int]
    calibrant: str | None


def write_instrument(
    path: Path, header: Header, powder: Path | None, source: Mapping[str, str]
) -> None:
    """Write an instrument file.

    Parameters
    ----------
    path : Path
    header : Header
        Metadata with a detector; facts of a scan are left out.
    powder : Path or None
        Product of a powder calibration, whose image and profile are copied.
    source : mapping of text
        Sources of the metadata, for people.

    Raises
    ------
    HklflowError
        If the powder data cannot be read.
    """
    assert header.detector is not None
    of_instrument = replace(
        header,
        n_frames=1,
        exposure_time=None,
        monitor=None,
        transmission=None,
        temperature=None,
        start_deg=None,
        step_deg=None,
        angles_deg=None,
    )
    facts = replace(
        described(of_instrument, header.detector.shape, 1),
        pixel_mask=header.pixel_mask,
        saturation=header.saturation,
        underload=header.underload,
        read_variance=header.read_variance,
        links=(),
    )
    with NXmxWriter(path, facts) as writer:
        if powder is not None:
            with open_file(powder) as file:
                writer.copy(file, _POWDER, CALIBRATION)
        writer.note(source)


def read_instrument(path: Path) -> Instrument:
    """Read an instrument file.

    Raises
    ------
    HklflowError
        If the file is not an instrument file, or cannot be read.
    """
    require_file(path, "the instrument file", "make one with `hklflow instrument new`")
    with open_file(path) as file:
        size = find(file, _SIZE)
        if size is None:
            raise HklflowError(
                f"{path} is not an instrument file; make one with `hklflow instrument new "
                f"NAME{SUFFIX}`"
            )
        slow, fast = (int(n) for n in np.ravel(numbers(size)))
        name = find(file, f"{CALIBRATION}/calibrant")
        calibrant = None if name is None else word(name)
    header = read_nexus_header(path, _NoFrames((slow, fast)))
    return Instrument(replace(header, n_frames=None), (slow, fast), calibrant)


def derived(header: Header) -> dict[str, float]:
    """Return what follows from detector and wavelength, by name with its unit."""
    detector = header.detector
    assert detector is not None
    normal = np.cross(detector.fast, detector.slow)
    normal = normal if normal @ detector.origin > 0 else -normal
    distance = float(normal @ detector.origin)
    found = {
        "distance (mm)": 1e3 * distance,
        "tilt of the detector (°)": float(np.degrees(np.arccos(min(abs(normal[2]), 1.0)))),
    }
    if normal[2] > 0:
        at = np.array([0.0, 0.0, distance / normal[2]]) - detector.origin
        found["beam centre, slow (pixels)"] = float(at @ detector.slow) / detector.pixel_size[0]
        found["beam centre, fast (pixels)"] = float(at @ detector.fast) / detector.pixel_size[1]
    if header.wavelength is not None:
        found["largest |Q| (1/Å)"] = reach(detector, header.wavelength)
    return found


def problems(path: Path, instrument: Instrument) -> list[str]:
    """Return what is missing in an instrument file, and what contradicts its powder calibration."""
    header = instrument.header
    found = [
        f"{what} is missing: {cure}"
        for what, missing, cure in (
            (
                "the geometry of the detector",
                header.detector is None,
                header.detector_doubt or "give --calibration or --geometry",
            ),
            ("the wavelength", header.wavelength is None, "give --calibration or --geometry"),
            (
                "the polarization",
                header.polarization is None,
                "give `polarization` in the entry of `calibrations`",
            ),
            (
                "the goniometer",
                header.goniometer is None,
                "set `import_scan: axes`, or give --like",
            ),
        )
        if missing
    ]
    if header.detector is not None and header.detector.modules is not None:
        found.append(
            "the geometry has displaced modules, which an instrument file cannot hold: leave the "
            "geometry to the column `calibration` of the tables, and give --like alone"
        )
    if not found and instrument.calibrant is not None:
        found += _contradictions(path, header)
    return found


def _contradictions(path: Path, header: Header) -> list[str]:
    """Compare the parameters of the powder calibration with those of the detector, recomputed."""
    detector, wavelength = header.detector, header.wavelength
    assert detector is not None
    assert wavelength is not None
    poni = poni_unmirrored(replace(detector, modules=None), wavelength)
    expected = {
        "Distance": poni.dist,
        "Poni1": poni.poni1,
        "Poni2": poni.poni2,
        "Rot1": poni.rot1,
        "Rot2": poni.rot2,
        "PixelSize1": poni.pixel1,
        "PixelSize2": poni.pixel2,
        "Wavelength": 1e-10 * wavelength,
    }
    sentences = []
    with open_file(path) as file:
        for name, value in expected.items():
            node = find(file, f"{_PARAMETERS}/{name}")
            if node is None:
                sentences.append(f"{_PARAMETERS} has no {name}: make the file again")
                continue
            stored = float(np.ravel(numbers(node))[0])
            limit = _SAME * (wavelength * 1e-10 if name == "Wavelength" else 1.0)
            if not abs(stored - value) <= limit:
                sentences.append(
                    f"{name} of the powder calibration is {stored:.8g}, but the detector and the "
                    f"beam of the file give {value:.8g}: they are not of one calibration; make the "
                    "file again"
                )
    return sentences
