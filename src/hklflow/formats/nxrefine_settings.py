"""Convert NXRefine's settings to hklflow's configuration.

Every documented key has a row in `KEYS`: its key in hklflow, or the reason why it has none. The
settings are in a ``settings.ini``; those of ``[nxreduce]`` are in the files of parents as well.
"""

import configparser
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_no_pipe


@dataclass(frozen=True)
class Becomes:
    """Key of hklflow for a key of ``settings.ini``."""

    key: str
    """``section.key`` of the configuration."""
    convert: Callable[[str], Any]
    says: str
    """Units and differences, for people."""
    nominal: bool = False
    """True for an example value only: calibrations and raw files have better ones."""


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    value = _number(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


def _source(text: str) -> str:
    known = configparser.ConfigParser.BOOLEAN_STATES
    if text.lower() not in known:
        raise ValueError(text)
    return "background" if known[text.lower()] else "none"


def _exposure(text: str) -> float:
    rate = _number(text)
    if rate <= 0:
        raise ValueError(text)
    return 1 / rate


def _fraction(text: str) -> float:
    # Rounded, because 0.99 would become 0.99499999.
    return round((1 + _number(text)) / 2, 12)


def _last(text: str) -> int:
    return _whole(text) - 1


_SERVER = "snakemake does this: profiles/, --cores, --workflow-profile slurm"
_FOLDERS = "the folder is where you run `hklflow init`; raw files are named in config/scans.tsv"
_MASK = "hklflow's 3-D mask grows from peaks and has other parameters: section mask_3d"

KEYS: dict[str, dict[str, Becomes | str]] = {
    "server": {
        "type": _SERVER,
        "cores": _SERVER,
        "concurrent": _SERVER,
        "run_command": _SERVER,
        "template": _SERVER,
        "cctw": "hklflow has its own transform",
    },
    "instrument": {
        "source": "read from the raw file",
        "instrument": "the format of the raw file selects the reader",
        "raw_home": _FOLDERS,
        "raw_path": _FOLDERS,
        "analysis_home": _FOLDERS,
        "analysis_path": _FOLDERS,
        "experiment": _FOLDERS,
    },
    "nxrefine": {
        "wavelength": Becomes("import_scan.wavelength", _number, "Å", True),
        "distance": "a start value in mm; set `distance` of an entry of calibrations in m",
        "detector_orientation": "from the raw file, or set `orientation` in calibrations",
        "phi": Becomes("import_scan.start", _number, "degrees", True),
        "phi_end": "(phi_end - phi) / phi_step frames: the column `frames` of config/scans.tsv",
        "phi_step": Becomes("import_scan.step", _number, "degrees for one frame", True),
        "chi": Becomes("import_scan.angles.chi", _number, "degrees", True),
        "omega": Becomes("import_scan.angles.omega", _number, "degrees", True),
        "theta": Becomes("import_scan.angles.theta", _number, "degrees", True),
        "x": "for each detector position make a calibration",
        "y": "for each detector position make a calibration",
        "nsteps": "each rotation has its row in config/scans.tsv",
        "frame_rate": Becomes("import_scan.exposure", _exposure, "s: 1 / (frame rate in Hz)", True),
    },
    "nxreduce": {
        "threshold": Becomes(
            "find_peaks.threshold",
            _number,
            "counts; hklflow also requires n_sigma above the local background",
        ),
        "min_pixels": Becomes(
            "find_peaks.min_pixels", _whole, "voxels of a peak; in NXRefine the distance of peaks"
        ),
        "first_frame": Becomes("import_scan.first_frame", _whole, "counted from 0"),
        "last_frame": Becomes(
            "import_scan.last_frame", _last, "the last frame used; in NXRefine the first not used"
        ),
        "polar_max": Becomes(
            "orientation.max_two_theta",
            _number,
            "degrees; peaks at larger angles take no part in the refinement",
        ),
        "hkl_tolerance": "in 1/Å in NXRefine; refine.hkl_tolerance is in h, k and l: multiply by "
        "a, b or c in Å",
        "monitor": "the raw file's monitor is used; import_scan.monitor `none` if it has none",
        "norm": "only a factor on the scale of S(Q)",
        "sample_transmission": Becomes(
            "frame_scale.source", _source, "source of the sample's transmission"
        ),
        "polarization": Becomes(
            "import_scan.polarization",
            _fraction,
            "fraction horizontal: (1 + factor) / 2 of pyFAI's polarisation factor",
        ),
        "radius": "hklflow measures how far reflections reach; `fill: radius` sets it",
        "mask_t1": _MASK,
        "mask_h1": _MASK,
        "mask_t2": _MASK,
        "mask_h2": _MASK,
        "scan_path": "config/scans.tsv gives scans by names and temperatures",
        "scan_units": "temperatures are in K",
    },
}


def read_ini(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield section, key and value of each line of a ``settings.ini``.

    Raises
    ------
    HklflowError
        If the file cannot be read, or is not an ini file.
    """
    parser = configparser.ConfigParser(interpolation=None)
    require_no_pipe(file)
    try:
        parser.read_string(file.read_text(encoding="utf-8"), source=file.name)
    except OSError as error:
        raise HklflowError(f"{file} cannot be read ({error.strerror}); correct the path") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        message = " ".join(str(error).split())
        raise HklflowError(f"{file} is not an ini file: {message}; give a settings.ini") from error
    for section in parser.sections():
        for key, value in parser.items(section):
            yield section.lower(), key, (value or "").strip()
