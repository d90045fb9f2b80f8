"""`hklflow import`: add the scans that an instrument wrote to the tables.

A plugin (`hklflow.beamlines`) finds and reads the scans, this module checks and prints them, and
`import_write` writes the files and rows.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.cli.folder import experiment
from hklflow.cli.import_write import Stated, say
from hklflow.cli.options import Directory

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from hklflow.beamlines import Beamline, Found, FoundScan, Request, Unmatched

_ALIKE = 4  # smallest number of unmatched scans with the same reason that are printed as a group
_OF_PLUGINS = "Found|FoundScan|FoundSample|Unmatched|Header|Detector|Goniometer"


@Parameter(name="*")
@dataclass(frozen=True)
class Facts:
    """Facts about the measurement that the files do not contain."""

    monitor: str | None = None
    """Name of the counter of the incident photons in the files of the instrument."""
    attenuator: str | None = None
    """Name of the value with the transmission of the attenuators in the files of the instrument."""
    polarization: float | None = None
    """Fraction of the intensity whose electric vector is horizontal, 0 to 1."""
    saturation: float | None = None
    """Smallest counts at which a pixel is saturated."""
    temperature: float | None = None
    """Temperature of all scans, in K."""

    def require_possible(self) -> None:
        """Raise an error if a value is physically impossible, before it is written."""
        import math

        from hklflow.geometry import plausible

        if self.polarization is not None and not 0 <= self.polarization <= 1:
            raise HklflowError(
                f"--polarization {self.polarization:g} is not a fraction; give 0 to 1 (0.5: "
                "unpolarised)"
            )
        if self.saturation is not None and not 0 < self.saturation < math.inf:
            raise HklflowError(
                f"--saturation {self.saturation:g} is not a number of counts; give a number above 0"
            )
        if self.temperature is not None and (
            problem := plausible.temperature_problem(self.temperature)
        ):
            raise HklflowError(f"--temperature: {problem.partition(':')[0]}; enter it in K")


def import_scans(
    source: Path,
    /,
    *,
    from_: Annotated[str, Parameter(name="--from")],
    directory: Directory = Path(),
    raw: str | None = None,
    scans: str = "",
    sample: str | None = None,
    stated: Stated = Stated(),
    facts: Facts = Facts(),
    option: tuple[str, ...] = (),
    dry_run: Annotated[bool, Parameter(name=("--dry-run", "-n"), negative=())] = False,
) -> int:
    """Find scans in the files of an instrument and add them to the experiment.

    Raw data are linked, never copied or changed. Existing rows of the tables are not changed, so
    the command can be repeated while data are measured. Scans that cannot be matched to frames are
    reported with possible candidates. The exit code is 2 if no scan can be imported.

    Example: `hklflow import run42.spec --from spec --sample PMN-PT --monitor Ion_Ch_2 --dry-run`

    Parameters
    ----------
    source
        File or folder with the scans.
    from_
        Format: `spec`, `nxmx`, `eiger`, `cbf`, `tiff`, `smv`, `edf`, `sfrm`, `rodhypix`,
        `esperanto`, `marccd`, `raxis`, `fabio` (any other), `bluesky`, `qm2`, `nxrefine`, or a
        beamline whose plugin is installed.
    raw
        Folder of the frames, or a pattern such as `images/x_S{scan}_####.tif`. Default: the usual
        place of the format.
    scans
        Numbers or names of scans at the instrument: `839`, `12,15-20`. Default: all scans.
    sample
        Name of the sample. Default: the name in the files.
    option
        Option of the plugin, `name=value`; see the documentation of the plugin.
    dry_run
        Print the scans that would be imported, and write nothing.
    """
    from hklflow.beamlines import Request, beamline, known
    from hklflow.cli import import_names, import_write
    from hklflow.formats.header import Header

    folder = experiment(directory)
    facts.require_possible()
    stated = stated.with_cif()
    if from_ in known():
        # If the plugin is slow or hangs, the user knows its name.
        say(f"asking beamline {from_} ({known()[from_]}) for the scans of {source} ...")
        sys.stdout.flush()
    plugin = beamline(from_)
    if not source.exists():
        raise HklflowError(f"{source} does not exist; check the path")
    request = Request(
        source=source.resolve() if ".." in source.parts else source.absolute(),
        raw=raw,
        scans=_numbers(scans),
        sample=sample,
        monitor=facts.monitor,
        attenuator=facts.attenuator,
        facts=Header(
            polarization=facts.polarization,
            saturation=facts.saturation,
            temperature=facts.temperature,
        ),
        options=_options(option, plugin.options, from_),
    )
    found = _found(plugin, from_, request)
    import_names.require_names(found)
    with folder.locked():
        fresh, there, lost = import_write.sort_out(folder, found, sample)
        _tell(found, fresh)
        _tell_known(there)
        if not dry_run and fresh:
            lost += import_write.write(folder, found, fresh, stated)
        else:
            print("nothing is written")
    _tell_unmatched(lost)
    if len(lost) < len(found.scans):
        if not dry_run and fresh:
            print("Next: `hklflow check`, then `snakemake -n`.")
        return 0
    number = len(lost) + len(found.unmatched)
    raise HklflowError(
        f"no scan of {source} can be imported"
        + (f"; {number} could not be matched, see above" if number else ": none was found")
    )


def _found(plugin: "Beamline", name: str, request: "Request") -> "Found":
    """Return the scans that a plugin finds; its errors are reported with the name of the plugin."""
    from hklflow.beamlines import Found, known
    from hklflow.beamlines.checked import checked

    try:
        found = plugin.find(request)
    except SystemExit as error:
        raise HklflowError(
            f"the plugin of beamline {name}, {known().get(name)}, ended the program ({error}); "
            "report this error to the maintainer of the plugin"
        ) from error
    except Exception as error:
        wrong = re.match(rf"(?:{_OF_PLUGINS})\.__init__\(\) ", str(error))
        if isinstance(error, TypeError) and wrong:
            raise HklflowError(
                f"the plugin of beamline {name}, {known().get(name)}: "
                f"{str(error).replace('.__init__()', '')}; docs/beamline_plugin.md lists the fields"
            ) from error
        error.add_note(f"in the plugin of beamline {name}, {known().get(name)}")
        raise
    if not isinstance(found, Found):
        raise HklflowError(
            f"the plugin of beamline {name}, {known().get(name)}, returned a "
            f"{type(found).__name__}, not its scans; report this error to the maintainer of the "
            "plugin"
        )
    return checked(found, name)


def _numbers(text: str) -> frozenset[str] | None:
    """Return the scans in ``12,15-20``; an item that is not a range of numbers is a name."""
    if not text.strip():
        return None
    numbers: set[str] = set()
    for item in (part.strip() for part in text.split(",")):
        first, _, last = item.partition("-")
        if first.isdecimal() and last.isdecimal():
            if int(last) < int(first) or int(last) - int(first) > 100_000:
                raise HklflowError(f"--scans {item!r} is not a range of scans; write first-last")
            numbers |= {str(number) for number in range(int(first), int(last) + 1)}
        elif item:
            numbers.add(item)
        else:
            raise HklflowError(f"--scans {text!r} has an empty item; write such as 12,15-20")
    return frozenset(numbers)


def _options(given: Sequence[str], known: Mapping[str, str], plugin: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or name not in known or name in options:
            listed = "; ".join(f"{key}: {meaning}" for key, meaning in known.items()) or "none"
            raise HklflowError(
                f"--option {item!r} is not one `name=value` of {plugin}'s own options ({listed})"
            )
        options[name] = value
    return options


def _tell(found: "Found", fresh: "list[FoundScan]") -> None:
    """Print the new scans, the unmatched scans and the notes."""
    for scan in fresh:
        place = scan.where or scan.raw
        say(f"{scan.sample} {scan.scan} {scan.rotation}: {place}: {_facts(scan)}")
        for note in scan.notes:
            say(f"  {note}")
    _tell_unmatched(found.unmatched)
    for note in found.notes:
        say(note)


def _tell_known(there: Sequence[tuple[str, str]]) -> None:
    """Print the number of scans in the table, and the scans that the user commented out."""
    commented = [names for names in there if names[1].endswith("#")]
    if len(there) > len(commented):
        say(f"{len(there) - len(commented)} more are in the table of scans already")
    for place, row in commented:
        say(f"{place}: stays out of the table, where it is {row}")


def _tell_unmatched(unmatched: "Sequence[Unmatched]") -> None:
    """Print the unmatched scans; many scans with the same reason are printed in two lines."""
    reasons: dict[str, list[Unmatched]] = {}
    for lost in unmatched:
        # Reasons that differ only in numbers count as the same reason.
        reason = re.sub(r"[-+.\d]*\d(?:e[-+]?\d+)?", "#", lost.why)
        reasons.setdefault(reason if not lost.candidates else lost.what, []).append(lost)
    for alike in reasons.values():
        printed = alike if len(alike) < _ALIKE else alike[:1]
        for lost in printed:
            say(f"not matched: {lost.what}: {lost.why}")
            for candidate in lost.candidates:
                say(f"  perhaps {candidate}")
        if rest := alike[len(printed) :]:
            names = [lost.what.partition(" (")[0] for lost in rest]
            say(f"  likewise {len(rest)} more: {', '.join(names)}")


def _range(values: "ArrayLike") -> str:
    """Return a number, or the smallest and the largest one, as text."""
    import numpy as np

    low, high = np.min(values), np.max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _facts(scan: "FoundScan") -> str:
    header = scan.header
    names = None if header.goniometer is None else header.goniometer.names
    axis = "scan" if header.goniometer is None or names is None else names[header.goniometer.scan]
    parts = [
        None if header.n_frames is None else f"{header.n_frames} frames",
        None
        if header.start_deg is None or header.step_deg is None
        else f"{axis} {header.start_deg:g} + {header.step_deg:.6g} x n degrees",
        None if header.temperature is None else f"{header.temperature:g} K",
        None if header.wavelength is None else f"{header.wavelength:.6g} Å",
        None if header.exposure_time is None else f"{_range(header.exposure_time)} s",
        None if header.monitor is None else "monitor",
        None if header.transmission is None else "attenuators",
        None if scan.ub is None else "orientation",
    ]
    return ", ".join(part for part in parts if part) or "as its header says"
