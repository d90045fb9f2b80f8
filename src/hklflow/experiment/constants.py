"""The section `constants` of the configuration: runs that give the constants of a detector.

An entry lists the runs that were measured; other measurements are left out. `branch` lists the jobs
that follow from an entry.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

import hklflow.stages.combine_constants
import hklflow.stages.constants_preprocess
import hklflow.stages.constants_report
import hklflow.stages.constants_sanity
import hklflow.stages.correct_frames
import hklflow.stages.counter_constants
import hklflow.stages.counter_dark
import hklflow.stages.counter_flood
import hklflow.stages.counter_rate
import hklflow.stages.counter_stability
import hklflow.stages.gather
import hklflow.stages.join_constants
import hklflow.stages.join_module
import hklflow.stages.mask_constants
import hklflow.stages.merge_current_source
import hklflow.stages.process_current_source
import hklflow.stages.process_dark
import hklflow.stages.process_pulse_capacitor
import hklflow.stages.process_xray
import hklflow.stages.propose_constants  # noqa: F401  (used as `stages.propose_constants`)
from hklflow import stages
from hklflow.base.described import Described
from hklflow.base.errors import HklflowError
from hklflow.calibration.kinds import OnMissing
from hklflow.constants.detectors import Integrating, integrating
from hklflow.constants.layout_names import LayoutName
from hklflow.constants.runs import raw_files


class _Section(Described):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stored(_Section):
    """Folder and state of a calibration in a calibration store."""

    store: str
    """Folder of the calibration store."""
    state: dict[str, Any]
    """Set-points of the instrument that define the state, see `hklflow calibration states`."""
    state_schema: Path | None = None
    """JSON file that lists the set-points of a state; None: the list in the package."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """State ids that are replaced: id from the set-points, and the id that is used. Needed if
    a set-point lies on the boundary between two steps.
    """
    pin: int | None = Field(None, ge=0)
    """Number of the version that is used for all scans; None: the highest accepted version that
    applies to the scan.
    """
    on_missing: OnMissing = "error"
    """If no accepted version applies to a scan: `error` stops, `diagnostic` uses version 0 (the
    geometry of the set-points; all pixels respond alike) and marks all products as diagnostic.
    Constants must be measured and have no such version: for them only `error`.
    """

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, value: Any) -> Any:
        if isinstance(value, dict) and "allow_default" in value:
            now = "diagnostic" if value["allow_default"] else "error"
            raise ValueError(
                f"`allow_default: {str(value['allow_default']).lower()}` is now `on_missing: {now}`"
            )
        return value


def stored_part(entry: Any) -> Stored | None:
    """Return the place of an entry of the configuration in a store; None if it has no store."""
    found = entry if isinstance(entry, Stored) else getattr(entry, "stored", None)
    return found if isinstance(found, Stored) else None


class StoredConstants(Stored):
    """Store to which the constants are proposed.

    Scans use the version that is accepted in the store.
    """

    author: str
    """Name of the person who proposes the constants."""
    gates: stages.propose_constants.Gates = stages.propose_constants.Gates()
    """Limits that the constants must meet to be accepted."""

    @field_validator("on_missing")
    @classmethod
    def _has_no_default(cls, value: OnMissing) -> OnMissing:
        if value == "diagnostic":
            raise ValueError(
                "constants must be measured, so there is no version 0 to use; leave it out, or "
                "accept constants with `hklflow calibration accept`"
            )
        return value


OneOrMore = str | Annotated[tuple[str, ...], Field(min_length=1)]


class Runs(_Section):
    """Runs of an integrating detector.

    Each run is a folder, a file or a pattern of files. Several runs of a dark or of fluorescence
    are joined to one measurement.
    """

    # YAML reads the name of a current as a number.
    model_config = ConfigDict(coerce_numbers_to_str=True)

    dark_high: OneOrMore
    """Dark run in high gain, or several runs."""
    dark_medium: OneOrMore
    """Dark run in forced medium gain, or several runs."""
    dark_low: OneOrMore
    """Dark run in forced low gain, or several runs."""
    xray: OneOrMore | None = None
    """Run of X-ray fluorescence in high gain, or several runs."""
    pulse_capacitor: tuple[str, ...] = ()
    """Runs of the pulse capacitor ramp: 8 runs with every 8th row each, or one run with all rows.
    """
    current_source: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Runs of the current source ramps, by the name of the current: 4 runs with every 4th column
    each, or one run with all columns.
    """


class IntegratingDetector(_Section):
    """Constants of an integrating detector with three stages of gain."""

    detector: Literal["agipd", "jungfrau"]
    """Kind of detector."""
    layout: LayoutName
    """Layout of the raw files: `euxfel` (European XFEL), `lab` (laboratory HDF5), `jungfrau` (PSI's
    HDF5 of JUNGFRAU), `cfel` (AGIPD modules on CFEL's test bench), or the name of a plugin."""
    memory_cells: int | None = Field(None, ge=1)
    """Memory cells that a trigger fills; required for layouts that do not store this number, such
    as `cfel`."""
    xray_memory_cells: int | None = Field(None, ge=1)
    """Memory cells that a trigger fills in runs of fluorescence; None: `memory_cells`."""
    modules: tuple[int, ...] = Field(min_length=1)
    """Numbers of the modules of the detector."""
    module_size: tuple[int, int] | None = None
    """Pixels of a module (ss, fs); None: the usual size of this kind of detector."""
    asic_size: tuple[int, int] | None = None
    """Pixels of an ASIC (ss, fs); None: the usual size of this kind of detector."""
    without: tuple[str, ...] = ()
    """Modules (`3`) and ASICs (`3/15`) that are left out; all their pixels are masked."""
    runs: Runs
    """Runs that were measured."""
    constants_sanity: stages.constants_sanity.Settings = stages.constants_sanity.Settings()
    """Checks of the raw runs."""
    process_dark: stages.process_dark.Settings = stages.process_dark.Settings()
    """Settings for offset, noise and thresholds from the dark runs."""
    process_xray: stages.process_xray.Settings | None = None
    """Settings for the gain from fluorescence; required with `runs: xray`."""
    process_pulse_capacitor: stages.process_pulse_capacitor.Settings = (
        stages.process_pulse_capacitor.Settings()
    )
    """Settings for the ratio of high and medium gain from the pulse capacitor."""
    process_current_source: stages.process_current_source.Settings = (
        stages.process_current_source.Settings()
    )
    """Settings for the ratios of all gains from the current source."""
    merge_current_source: stages.merge_current_source.Settings = (
        stages.merge_current_source.Settings()
    )
    """Settings for the choice of the best current."""
    combine_constants: stages.combine_constants.Settings = stages.combine_constants.Settings()
    """Settings for the absolute gains."""
    gain_map: str | None = None
    """File with gains (ADU/keV) that the manufacturer measured."""
    mask_constants: stages.mask_constants.Settings = stages.mask_constants.Settings()
    """Limits of good pixels."""
    mask: str | None = None
    """Image of pixels that are known to be bad, of a module or an ASIC; nonzero is bad."""
    stored: StoredConstants | None = None
    """Store to which the constants are proposed; None: scans use the constants without approval."""

    def memory_cells_of(self, run: str) -> int | None:
        """Return the memory cells that a trigger fills in a run or measure of this name."""
        return (self.xray_memory_cells if run.startswith("xray") else None) or self.memory_cells


class CounterRuns(_Section):
    """Runs of a photon counter. Each run is an HDF5 file or a pattern of images."""

    dark: str | None = None
    """Frames without X-rays."""
    flood: str | None = None
    """Frames of fluorescence or another flat illumination."""
    stability: str | None = None
    """Rotation scan in which pixels that are always strong are searched."""
    rate: tuple[str, ...] = ()
    """Runs of the same scene, each behind another attenuator."""
    transmission: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Transmission of the attenuators in each run of `rate`; only ratios matter."""


class PhotonCounter(_Section):
    """Constants of a photon counter."""

    detector: Literal["pilatus", "eiger", "counter"]
    """Kind of detector."""
    runs: CounterRuns
    """Runs that were measured."""
    geometry: str | None = None
    """Entry of `calibrations` with the geometry of the detector during the flood measurement."""
    counter_dark: stages.counter_dark.Settings = stages.counter_dark.Settings()
    """Settings of the search for hot pixels."""
    counter_flood: stages.counter_flood.Settings = stages.counter_flood.Settings()
    """Settings for the flat field, and for dead, weak, strong and noisy pixels."""
    counter_stability: stages.counter_stability.Settings = stages.counter_stability.Settings()
    """Settings of the search for pixels that are strong on most frames."""
    counter_rate: stages.counter_rate.Settings = stages.counter_rate.Settings()
    """Settings for the dead time."""
    counter_constants: stages.counter_constants.Settings = stages.counter_constants.Settings()
    """Settings for the mask and the flat field, which combine all measurements."""
    stored: StoredConstants | None = None
    """Store to which the constants are proposed; None: scans use the constants without approval."""


def _kind(value: Any) -> str:
    detector = value.get("detector") if isinstance(value, dict) else value.detector
    return "integrating" if detector in ("agipd", "jungfrau") else "counter"


DetectorConstants = Annotated[
    Annotated[IntegratingDetector, Tag("integrating")] | Annotated[PhotonCounter, Tag("counter")],
    Discriminator(_kind),
]


class UsedConstants(stages.correct_frames.Settings):
    """Correction of the frames, and the constants that it uses."""

    constants: str | None = None
    """Entry of `constants`. For an integrating detector, the frames are corrected with the
    constants; for a photon counter, their mask and flat field are used. None: raw frames are not
    corrected.
    """
    energy: float | None = Field(None, gt=0)
    """Photon energy of the scans in keV; required for an integrating detector."""
    layout: LayoutName | None = None
    """Layout of the raw files of the scans; the table of scans then lists runs (folders). None: raw
    files with all frames, with the gain in the two top bits and the modules stacked along slow.
    """


@dataclass(frozen=True)
class Branch:
    """Jobs that make the constants of an integrating detector.

    Attributes
    ----------
    measures : dict
        Runs of each measure, as the configuration lists them.
    modules : tuple of int
        Modules that are not left out.
    """

    entry: IntegratingDetector
    measures: dict[str, tuple[str, ...]]
    modules: tuple[int, ...]

    @property
    def detector(self) -> Integrating:
        """Shape of modules and ASICs."""
        return integrating(self.entry.detector, self.entry.module_size, self.entry.asic_size)

    @property
    def runs(self) -> dict[str, str]:
        """Folder, file or pattern of each run, by the name of the run.

        The name of a run is its measure, with a number if the measure has several runs.
        """
        return {
            _run_name(measure, number, len(runs)): run
            for measure, runs in self.measures.items()
            for number, run in enumerate(runs)
        }

    def runs_of(self, measure: str) -> list[str]:
        """Return the names of the runs of a measure, in the order of the configuration."""
        n = len(self.measures[measure])
        return [_run_name(measure, number, n) for number in range(n)]

    def asics(self, module: int) -> list[int]:
        """Return the ASICs of a module that are not left out."""
        return [a for a in range(self.detector.asics) if f"{module}/{a}" not in self.entry.without]

    @property
    def currents(self) -> list[str]:
        """Names of the currents of the current source."""
        return list(self.entry.runs.current_source)


def branch(entry: IntegratingDetector) -> Branch:
    """Return the jobs that follow from an entry."""
    runs = entry.runs
    measures: dict[str, tuple[str, ...]] = {
        f"dark_{stage}": _listed(getattr(runs, f"dark_{stage}")) for stage in _STAGES
    }
    if runs.xray is not None:
        measures["xray"] = _listed(runs.xray)
    if runs.pulse_capacitor:
        measures["pulse_capacitor"] = runs.pulse_capacitor
    measures |= {f"current_source_{name}": found for name, found in runs.current_source.items()}
    modules = tuple(m for m in entry.modules if str(m) not in entry.without)
    return Branch(entry, measures, modules)


def _listed(runs: OneOrMore) -> tuple[str, ...]:
    return (runs,) if isinstance(runs, str) else runs


def steps(branch: Branch) -> list[str]:
    """Return the names of the files that are made for each ASIC."""
    made = ["dark.nxs", "combined.nxs", "masked.nxs"]
    made += [f"{name}.nxs" for name in ("xray", "pulse_capacitor") if name in branch.measures]
    made += [f"current_source_{current}.nxs" for current in branch.currents]
    return made + (["merged.nxs"] if branch.currents else [])


_STAGES = ("high", "medium", "low")


def _run_name(measure: str, number: int, of: int) -> str:
    # The name of a current has no underscore, so names of runs are unique.
    return measure if of == 1 else f"{measure}_{number}"


def problems(name: str, entry: "IntegratingDetector | PhotonCounter", base: Path) -> Iterator[str]:
    """Yield problems of an entry that its single values do not show: combinations and files."""
    where = f"config: constants.{name}"
    if entry.stored is not None:
        needed = _SET_POINTS["counter" if isinstance(entry, PhotonCounter) else "integrating"]
        missing = [key for key in needed if entry.stored.state.get(key) is None]
        if missing:
            yield f"{where}: stored.state lacks {', '.join(missing)}, on which the constants depend"
    if isinstance(entry, PhotonCounter):
        yield from _counter_problems(where, entry, base)
        return
    for run in {run for runs in branch(entry).measures.values() for run in runs}:
        try:
            raw_files(run, base)
        except HklflowError as error:
            yield f"{where}: {error}"
    for key in ("gain_map", "mask"):
        given = getattr(entry, key)
        if given is not None and not (base / given).is_file():
            yield f"{where}: {key}: {given} does not exist"
    try:
        n_asics = branch(entry).detector.asics
    except HklflowError as error:
        yield f"{where}: {error}"
        return
    for given in entry.without:
        match = re.fullmatch(r"(0|[1-9]\d*)(?:/(0|[1-9]\d*))?", given)
        known = match and int(match[1]) in entry.modules and int(match[2] or 0) < n_asics
        if not known:
            yield (
                f"{where}: without: {given!r} is not a module or ASIC of the detector (`3`, or "
                f"`3/15` with ASICs 0 to {n_asics - 1})"
            )
    if min(entry.modules) < 0:
        yield f"{where}: modules {list(entry.modules)} has a negative number"
    if entry.layout == "jungfrau" and entry.detector != "jungfrau":
        yield f"{where}: layout jungfrau has no frames of {entry.detector}; use lab or euxfel"
    yield from _cell_problems(where, entry)
    for measure, of_measure in branch(entry).measures.items():
        twice = sorted({run for run in of_measure if of_measure.count(run) > 1})
        if twice and measure.startswith(("dark", "xray")):
            yield f"{where}: runs.{measure} lists {', '.join(twice)} twice"
    if len(set(entry.modules)) != len(entry.modules):
        yield f"{where}: modules {list(entry.modules)} has one twice"
    left = branch(entry)
    if not left.modules or not all(left.asics(module) for module in left.modules):
        yield f"{where}: without leaves no ASIC of a module; leave out the module"
    if entry.runs.xray is not None and entry.process_xray is None:
        yield f"{where}: runs.xray needs process_xray with the energy of the line in keV"
    for current in entry.runs.current_source:
        if not re.fullmatch(r"[A-Za-z0-9.+-]+", current):
            yield f"{where}: runs.current_source: {current!r} cannot be a name; use letters, digits"
    if (n := len(entry.runs.pulse_capacitor)) not in (0, 1, 8):
        yield f"{where}: runs.pulse_capacitor has {n} runs, not 1 or 8"
    for current, runs_of in entry.runs.current_source.items():
        if len(runs_of) not in (1, 4):
            yield f"{where}: runs.current_source.{current} has {len(runs_of)} runs, not 1 or 4"


# Set-points of the state on which the constants of each kind of detector depend.
_SET_POINTS = {
    "integrating": ("gain_mode", "integration_time", "memory_cells"),
    "counter": ("threshold", "energy"),
}


def _cell_problems(where: str, entry: IntegratingDetector) -> Iterator[str]:
    if entry.layout == "cfel":
        if entry.detector != "agipd":
            yield f"{where}: layout cfel has no frames of {entry.detector}; use lab or euxfel"
        if entry.memory_cells is None:
            yield f"{where}: layout cfel needs memory_cells, which its files do not store"
    stored = entry.stored and entry.stored.state.get("memory_cells")
    if stored and entry.memory_cells not in (None, stored):
        yield (
            f"{where}: memory_cells is {entry.memory_cells}, and {stored} in stored.state; "
            "correct one of them"
        )


def _counter_problems(where: str, entry: PhotonCounter, base: Path) -> Iterator[str]:
    from hklflow.formats.series import find_files

    runs = entry.runs
    if not counter_runs(entry):
        yield f"{where}: runs has none; give dark, flood, stability or rate"
    if len(runs.rate) != len(runs.transmission) or len(runs.rate) == 1:
        yield (
            f"{where}: runs.rate has {len(runs.rate)} runs and runs.transmission "
            f"{len(runs.transmission)} values; give one for each, and two or more"
        )
    for run in [run for found in counter_runs(entry).values() for run in found]:
        try:
            find_files(base / run)
        except HklflowError as error:
            yield f"{where}: {error}"


def counter_runs(entry: PhotonCounter) -> dict[str, tuple[str, ...]]:
    """Return the raw files or patterns of each measurement that was made of a photon counter."""
    runs = entry.runs
    found = {"dark": runs.dark, "flood": runs.flood, "stability": runs.stability}
    made = {name: (run,) for name, run in found.items() if run is not None}
    return made | ({"rate": runs.rate} if runs.rate else {})
