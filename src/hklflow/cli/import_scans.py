"""`hklflow import`: scans that an instrument wrote become rows of the tables.

The plugin finds and reads (`hklflow.beamlines`); here that is told and checked, and
`import_write` writes it.
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
    from hklflow.beamlines import Beamline, Found, FoundScan, Request, Unmatched

_ALIKE = 4  # scans that are not matched for the same reason, from which on they are gathered


@Parameter(name="*")
@dataclass(frozen=True)
class Facts:
    """Options that state what the files do not say of the measurement."""

    monitor: str | None = None
    """What counts the incident photons, by the instrument's name."""
    attenuator: str | None = None
    """What holds the attenuators' transmission, by the instrument's name."""
    polarization: float | None = None
    """Fraction of the intensity with the electric vector horizontal."""
    saturation: float | None = None
    """Counts from which a pixel is not to be believed."""
    temperature: float | None = None
    """Temperature in K of all scans found."""

    def require_possible(self) -> None:
        """Refuse what no experiment has, before it stands in files and tables."""
        import math

        from hklflow.geometry import plausible

        if self.polarization is not None and not 0 <= self.polarization <= 1:
            raise HklflowError(
                f"--polarization {self.polarization:g} is no fraction; give 0 to 1 (0.5: "
                "unpolarised)"
            )
        if self.saturation is not None and not 0 < self.saturation < math.inf:
            raise HklflowError(
                f"--saturation {self.saturation:g} is no number of counts; give one above 0"
            )
        if self.temperature is not None and (
            told := plausible.temperature_problem(self.temperature)
        ):
            raise HklflowError(f"--temperature: {told.partition(':')[0]}; enter it in K")


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
    """Find scans in what an instrument wrote, and add them to the experiment.

    Raw data are linked, never copied or changed. What is in the tables already is left as it is,
    so that the command can be given again as data come in. What cannot be matched is told, with
    what it might be; exit code 2 if nothing at all was found.

    Example: `hklflow import run42.spec --from spec --sample PMN-PT --monitor Ion_Ch_2 --dry-run`

    Parameters
    ----------
    source
        File or folder to look in.
    from_
        What wrote it: `spec`, `nxmx`, `eiger`, `cbf`, `tiff`, `smv`, `edf`, `nxrefine`, or a
        beamline whose plugin is installed.
    raw
        Where the frames are, if not where they usually are: a folder, or a pattern such as
        `images/x_S{scan}_####.tif`.
    scans
        Scans wanted, by the instrument's numbers or names: `839`, `12,15-20`; else all.
    sample
        Name of the sample, if not that in the files.
    option
        `name=value` of the plugin's own, see its page.
    dry_run
        Tell what would be imported, and write nothing.
    """
    from hklflow.beamlines import Request, beamline, known
    from hklflow.cli import import_names, import_write
    from hklflow.formats.header import Header

    folder = experiment(directory)
    facts.require_possible()
    if from_ in known():
        # A person sees who works, or hangs.
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
    """Let a plugin look; what it does wrong is told with its name."""
    from hklflow.beamlines import Found, known
    from hklflow.beamlines.checked import checked

    try:
        found = plugin.find(request)
    except SystemExit as error:
        raise HklflowError(
            f"the plugin of beamline {name}, {known().get(name)}, ended the program ({error}); "
            "report it to whoever keeps it"
        ) from error
    except Exception as error:
        error.add_note(f"in the plugin of beamline {name}, {known().get(name)}")
        raise
    if not isinstance(found, Found):
        raise HklflowError(
            f"the plugin of beamline {name}, {known().get(name)}, gave a {type(found).__name__} "
            "and not what it found; report it to whoever keeps it"
        )
    return checked(found, name)


def _numbers(text: str) -> frozenset[str] | None:
    """Read ``12,15-20``; what is no range of numbers is a name."""
    if not text.strip():
        return None
    found: set[str] = set()
    for item in (part.strip() for part in text.split(",")):
        first, _, last = item.partition("-")
        if first.isdecimal() and last.isdecimal():
            if int(last) < int(first) or int(last) - int(first) > 100_000:
                raise HklflowError(f"--scans {item!r} is no range of scans; write first-last")
            found |= {str(number) for number in range(int(first), int(last) + 1)}
        elif item:
            found.add(item)
        else:
            raise HklflowError(f"--scans {text!r} has an empty item; write such as 12,15-20")
    return frozenset(found)


def _options(given: Sequence[str], known: Mapping[str, str], plugin: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or name not in known or name in options:
            listed = "; ".join(f"{key}: {told}" for key, told in known.items()) or "none"
            raise HklflowError(
                f"--option {item!r} is not one `name=value` of {plugin}'s own options ({listed})"
            )
        options[name] = value
    return options


def _tell(found: "Found", fresh: "list[FoundScan]") -> None:
    """Print what was found and what was not, for a person to check."""
    for one in fresh:
        say(f"{one.sample} {one.scan} {one.rotation}: {one.where or one.raw}: {_facts(one)}")
        for note in one.notes:
            say(f"  {note}")
    _tell_unmatched(found.unmatched)
    for note in found.notes:
        say(note)


def _tell_known(there: Sequence[tuple[str, str]]) -> None:
    """Print how many scans are there already, and which of them a person took out."""
    out = [one for one in there if one[1].endswith("#")]
    if len(there) > len(out):
        say(f"{len(there) - len(out)} more are in the table of scans already")
    for told, known in out:
        say(f"{told}: stays out of the table, where it is {known}")


def _tell_unmatched(unmatched: "Sequence[Unmatched]") -> None:
    """Print what could not be matched; many of one reason in two lines."""
    reasons: dict[str, list[Unmatched]] = {}
    for lost in unmatched:
        # Reasons that differ in numbers only are one.
        reason = re.sub(r"[-+.\d]*\d(?:e[-+]?\d+)?", "#", lost.why)
        reasons.setdefault(reason if not lost.candidates else lost.what, []).append(lost)
    for alike in reasons.values():
        told = alike if len(alike) < _ALIKE else alike[:1]
        for lost in told:
            say(f"not matched: {lost.what}: {lost.why}")
            for candidate in lost.candidates:
                say(f"  perhaps {candidate}")
        if rest := alike[len(told) :]:
            names = [lost.what.partition(" (")[0] for lost in rest]
            say(f"  likewise {len(rest)} more: {', '.join(names)}")


def _facts(one: "FoundScan") -> str:
    header = one.header
    names = None if header.goniometer is None else header.goniometer.names
    axis = "scan" if header.goniometer is None or names is None else names[header.goniometer.scan]
    parts = [
        None if header.n_frames is None else f"{header.n_frames} frames",
        None
        if header.start_deg is None or header.step_deg is None
        else f"{axis} {header.start_deg:g} + {header.step_deg:.6g} x n degrees",
        None if header.temperature is None else f"{header.temperature:g} K",
        None if header.wavelength is None else f"{header.wavelength:.6g} Å",
        None if header.exposure_time is None else f"{header.exposure_time:g} s",
        None if header.monitor is None else "monitor",
        None if header.transmission is None else "attenuators",
        None if one.ub is None else "orientation",
    ]
    return ", ".join(part for part in parts if part) or "as its header says"
