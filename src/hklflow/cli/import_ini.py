"""`hklflow config import-ini`: NXRefine's ``settings.ini`` as a layer of hklflow's configuration.

Every documented key has a row in `KEYS`: what it becomes, or why it has no counterpart.
NXRefine's [nxrefine] values are only what its dialog for a new configuration starts from, so
they become examples behind a "#": as settings they would go before what calibrations and
raw files say.
"""

import configparser
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from hklflow.errors import HklflowError


@dataclass(frozen=True)
class Becomes:
    """What a key of ``settings.ini`` becomes."""

    key: str
    """``section.key`` of the configuration."""
    convert: Callable[[str], Any]
    says: str
    """The units, and what is different."""
    nominal: bool = False
    """Only an example: a start value that calibrations and raw files know better."""


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
    # Rounded, for 0.99 would become 0.99499999.
    return round((1 + _number(text)) / 2, 12)


def _last(text: str) -> int:
    return _whole(text) - 1


_SERVER = "snakemake does it: profiles/, --cores, --workflow-profile slurm"
_FOLDERS = "the folder is where you run `hklflow init`; raw files are named in config/scans.tsv"
_MASK = "hklflow's 3-D mask grows from peaks and has other parameters: section mask_3d"

KEYS: dict[str, dict[str, Becomes | str]] = {
    "server": {
        "type": _SERVER,
        "cores": _SERVER,
        "concurrent": _SERVER,
        "run_command": _SERVER,
        "template": _SERVER,
        "cctw": "hklflow has a transform of its own",
    },
    "instrument": {
        "source": "it is read from the raw file",
        "instrument": "readers are chosen by the raw file's format",
        "raw_home": _FOLDERS,
        "raw_path": _FOLDERS,
        "analysis_home": _FOLDERS,
        "analysis_path": _FOLDERS,
        "experiment": _FOLDERS,
    },
    "nxrefine": {
        "wavelength": Becomes("import_scan.wavelength", _number, "Å", True),
        "distance": "a start value in mm; in m it is `distance` of an entry of calibrations",
        "detector_orientation": "the raw file's geometry, or `orientation` in calibrations",
        "phi": Becomes("import_scan.start", _number, "degrees", True),
        "phi_end": "(phi_end - phi) / phi_step frames: the column `frames` of config/scans.tsv",
        "phi_step": Becomes("import_scan.step", _number, "degrees for one frame", True),
        "chi": Becomes("import_scan.angles.chi", _number, "degrees", True),
        "omega": Becomes("import_scan.angles.omega", _number, "degrees", True),
        "theta": Becomes("import_scan.angles.theta", _number, "degrees", True),
        "x": "detector positions that differ are calibrations of their own",
        "y": "detector positions that differ are calibrations of their own",
        "nsteps": "each rotation has its row in config/scans.tsv",
        "frame_rate": Becomes("import_scan.exposure", _exposure, "s: 1 / (frame rate in Hz)", True),
    },
    "nxreduce": {
        "threshold": Becomes(
            "find_peaks.threshold",
            _number,
            "counts; here strong voxels are also those above n_sigma of the local background",
        ),
        "min_pixels": Becomes(
            "find_peaks.min_pixels", _whole, "voxels of a peak; there the distance of peaks"
        ),
        "first_frame": Becomes("import_scan.first_frame", _whole, "counted from 0"),
        "last_frame": Becomes(
            "import_scan.last_frame", _last, "the last one used; there the first one not used"
        ),
        "polar_max": "all peaks are used that the search finds",
        "hkl_tolerance": "a distance in 1/Å there; refine.hkl_tolerance is one in h, k and l: "
        "multiply by a, b or c in Å",
        "monitor": "the raw file's monitor is used; import_scan.monitor `none` if it has none",
        "norm": "a factor on the scale of S(Q) only",
        "sample_transmission": Becomes(
            "frame_scale.source", _source, "what tells the sample's transmission"
        ),
        "polarization": Becomes(
            "import_scan.polarization",
            _fraction,
            "fraction horizontal: (1 + factor) / 2 of pyFAI's polarisation factor",
        ),
        "radius": "punching Bragg peaks is not part of this version",
        "mask_t1": _MASK,
        "mask_h1": _MASK,
        "mask_t2": _MASK,
        "mask_h2": _MASK,
        "scan_path": "scans are told apart by their names and temperatures in config/scans.tsv",
        "scan_units": "temperatures are in K",
    },
}


def import_ini(
    file: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
) -> None:
    """Translate NXRefine's settings.ini to a facility file.

    The YAML goes to the terminal or to a file, the list of keys without a counterpart to
    the terminal. Lines behind a "#" are start values: take the "#" away to use one.

    Example: `hklflow config import-ini tasks/settings.ini -o facility.yaml`

    Parameters
    ----------
    file
        NXRefine's settings.ini.
    output
        File to write; it must not be there yet.
    """
    text, report = translated(file)
    if output is None:
        print(text, end="")
    else:
        try:
            with output.open("x", encoding="utf-8") as target:
                target.write(text)
        except OSError as error:
            raise HklflowError(
                f"{output} cannot be made ({error.strerror}); give another name"
            ) from error
    for line in report:
        print(line, file=sys.stderr)


def translated(file: Path) -> tuple[str, list[str]]:
    """YAML text of a ``settings.ini``, and what was left out, one line each.

    Raises
    ------
    HklflowError
        If the file cannot be read, or a value is not what its key needs.
    """
    found: dict[str, list[str]] = {}
    report: list[str] = []
    for section, key, value in _read(file):
        where = f"[{section}] {key}"
        row = KEYS.get(section, {}).get(key)
        if row is None:
            report.append(f"{where} = {value}: not known, left out")
        elif isinstance(row, str):
            report.append(f"{where} = {value}: no counterpart; {row}")
        elif value in ("", "None"):
            report.append(f"{where} is empty: left out")
        else:
            _put(found, row, where, value, file)
    lines = [f'# From {file.name} of NXRefine. Lines with a "#" are start values of its dialog:']
    lines.append("# as settings they would go before what calibrations and raw files say.")
    for section, inner in found.items():
        # A section of examples only is an example itself.
        mark = "" if any(not line.startswith("#") for line in inner) else "#"
        lines += ["", f"{mark}{section}:", *inner]
    text = "\n".join(lines) + "\n"
    _check(text, file)
    return text, report


def _check(text: str, file: Path) -> None:
    """Refuse values that the configuration would refuse, those behind a "#" too."""
    import yaml
    from pydantic import ValidationError

    from hklflow.config import Config

    try:
        Config.model_validate(yaml.safe_load(used(text)) or {})
    except ValidationError as error:
        item = error.errors()[0]
        key = ".".join(str(part) for part in item["loc"])
        raise HklflowError(
            f"{file}: what becomes {key} is {item['input']!r}: {item['msg']}; mend it"
        ) from error


def used(text: str) -> str:
    """Take the "#" away from all start values."""
    return re.sub(r"^#(?=  |\w+:$)", "", text, flags=re.MULTILINE)


def _read(file: Path) -> Iterator[tuple[str, str, str]]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(file.read_text(encoding="utf-8"), source=file.name)
    except OSError as error:
        raise HklflowError(f"{file} cannot be read ({error.strerror}); mend the path") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        told = " ".join(str(error).split())
        raise HklflowError(f"{file} is not an ini file: {told}; give a settings.ini") from error
    for section in parser.sections():
        for key, value in parser.items(section):
            yield section.lower(), key, (value or "").strip()


def _put(found: dict[str, list[str]], row: Becomes, where: str, value: str, file: Path) -> None:
    import yaml

    try:
        converted = row.convert(value)
    except ValueError as error:
        raise HklflowError(
            f"{file}: {where} is {value!r}, which is not what it needs ({row.says}); mend it"
        ) from error
    mark = "#" if row.nominal else ""
    shown = yaml.safe_dump(converted).splitlines()[0]
    section, *names = row.key.split(".")
    lines = found.setdefault(section, [])
    at = len(lines)
    if len(names) == 2:
        # The keys of one mapping stand together.
        head = f"{mark}  {names[0]}:"
        if head not in lines:
            lines.append(head)
        at = lines.index(head) + 1
    indent = "  " * len(names)
    lines.insert(at, f"{mark}{indent}{names[-1]}: {shown}  # {row.says}; {where} = {value}")
