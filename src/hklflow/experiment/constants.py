"""The section `constants`: runs from which a detector's constants are made, and what of them.

An entry says which runs there are; a measurement that was not made is not in it. `branch` tells the
rules which jobs that makes.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

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
from hklflow.base.errors import HklflowError
from hklflow.constants.detectors import Integrating, integrating
from hklflow.constants.runs import raw_files


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Stored(_Section):
    """Place of calibrations in a store."""

    store: str
    """Folder of the store."""
    state: dict[str, Any]
    """Set-points of the instrument that make the state, see `hklflow calibration states`."""
    state_schema: Path | None = None
    """JSON file of the set-points that make a state; None: the packaged one."""
    aliases: dict[str, str] = Field(default_factory=dict)
    """State id -> state id, where a set-point lies on the edge of its step."""
    pin: int | None = Field(None, ge=0)
    """Version to be used whatever the store says; None: the highest accepted one that applies."""


class StoredConstants(Stored):
    """Store that the constants are proposed to; scans use the version that was accepted there."""

    author: str
    """Who proposes."""
    gates: stages.propose_constants.Gates = stages.propose_constants.Gates()
    """What constants must keep to be accepted."""


class Runs(_Section):
    """Runs of an integrating detector: each a folder, a file or a pattern of files."""

    # YAML takes the name of a current for a number.
    model_config = ConfigDict(coerce_numbers_to_str=True)

    dark_high: str
    """Dark run in high gain."""
    dark_medium: str
    """Dark run with medium gain forced."""
    dark_low: str
    """Dark run with low gain forced."""
    xray: str | None = None
    """X-ray fluorescence, in high gain."""
    pulse_capacitor: tuple[str, ...] = ()
    """Ramp of the pulse capacitor: 8 runs, each of every 8th row; or one of all rows."""
    current_source: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Ramps of the current source by their current: 4 runs, each of every 4th column; or one."""


class IntegratingDetector(_Section):
    """Constants of an integrating detector with three stages of gain."""

    detector: Literal["agipd", "jungfrau"]
    """Kind of detector."""
    layout: Literal["euxfel", "lab", "jungfrau"]
    """Layout of the raw files: European XFEL, laboratory HDF5, PSI's HDF5 of JUNGFRAU."""
    modules: tuple[int, ...] = Field(min_length=1)
    """Numbers of the modules that the detector has."""
    module_size: tuple[int, int] | None = None
    """Pixels of a module (ss, fs); None: as the kind has it."""
    asic_size: tuple[int, int] | None = None
    """Pixels of an ASIC (ss, fs); None: as the kind has it."""
    without: tuple[str, ...] = ()
    """Modules (`3`) and ASICs (`3/15`) that are left out: all their pixels are masked."""
    runs: Runs
    """Runs that were measured."""
    constants_sanity: stages.constants_sanity.Settings = stages.constants_sanity.Settings()
    """Checks of the raw runs."""
    process_dark: stages.process_dark.Settings = stages.process_dark.Settings()
    """Offset, noise and thresholds."""
    process_xray: stages.process_xray.Settings | None = None
    """Gain from fluorescence; needed with `runs: xray`."""
    process_pulse_capacitor: stages.process_pulse_capacitor.Settings = (
        stages.process_pulse_capacitor.Settings()
    )
    """Ratio of high and medium gain."""
    process_current_source: stages.process_current_source.Settings = (
        stages.process_current_source.Settings()
    )
    """Ratios of all gains."""
    merge_current_source: stages.merge_current_source.Settings = (
        stages.merge_current_source.Settings()
    )
    """Choice of the best current."""
    combine_constants: stages.combine_constants.Settings = stages.combine_constants.Settings()
    """Absolute gains."""
    gain_map: str | None = None
    """File of gains (ADU/keV) that the manufacturer measured."""
    mask_constants: stages.mask_constants.Settings = stages.mask_constants.Settings()
    """Limits of good pixels."""
    mask: str | None = None
    """Image of pixels that are known to be bad (of a module or an ASIC; nonzero is bad)."""
    stored: StoredConstants | None = None
    """Store that the constants are proposed to; None: scans use them as they are."""


class CounterRuns(_Section):
    """Runs of a photon counter: each an HDF5 file or a pattern of images."""

    dark: str | None = None
    """Frames without X-rays."""
    flood: str | None = None
    """Fluorescence, or another flat illumination."""
    stability: str | None = None
    """Rotation scan, in which pixels that are always strong are looked for."""
    rate: tuple[str, ...] = ()
    """The same scene behind one attenuator after the other."""
    transmission: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Transmission of the attenuators of each run of `rate`; only ratios matter."""


class PhotonCounter(_Section):
    """Constants of a photon counter."""

    detector: Literal["pilatus", "eiger", "counter"]
    """Kind of detector."""
    runs: CounterRuns
    """Runs that were measured."""
    geometry: str | None = None
    """Entry of `calibrations`: where the detector stood when the flood was measured."""
    counter_dark: stages.counter_dark.Settings = stages.counter_dark.Settings()
    """Hot pixels."""
    counter_flood: stages.counter_flood.Settings = stages.counter_flood.Settings()
    """Flat field; dead, weak, strong and noisy pixels."""
    counter_stability: stages.counter_stability.Settings = stages.counter_stability.Settings()
    """Pixels that are strong on most frames."""
    counter_rate: stages.counter_rate.Settings = stages.counter_rate.Settings()
    """Dead time."""
    counter_constants: stages.counter_constants.Settings = stages.counter_constants.Settings()
    """Mask and flat field from all of these."""
    stored: StoredConstants | None = None
    """Store that the constants are proposed to; None: scans use them as they are."""


def _kind(value: Any) -> str:
    detector = value.get("detector") if isinstance(value, dict) else value.detector
    return "integrating" if detector in ("agipd", "jungfrau") else "counter"


DetectorConstants = Annotated[
    Annotated[IntegratingDetector, Tag("integrating")] | Annotated[PhotonCounter, Tag("counter")],
    Discriminator(_kind),
]


class UsedConstants(stages.correct_frames.Settings):
    """How frames are corrected, and with which constants."""

    constants: str | None = None
    """Entry of `constants`. The frames of an integrating detector are corrected with it; of a
    photon counter the mask and the flat field are used. None: the raw frames as they are."""
    energy: float | None = Field(None, gt=0)
    """Energy of the scans' photons in keV, for an integrating detector."""
    layout: Literal["euxfel", "lab", "jungfrau"] | None = None
    """Layout of the scans' raw files; they are then runs (folders) in the table of scans. None: raw
    files with all frames, the gain in the two top bits and the modules stacked along slow."""


@dataclass(frozen=True)
class Branch:
    """Jobs that make the constants of an integrating detector.

    Attributes
    ----------
    measures : dict
        Measure -> its runs as they are named in the configuration.
    modules : tuple of int
        Those that are not left out.
    """

    entry: IntegratingDetector
    measures: dict[str, tuple[str, ...]]
    modules: tuple[int, ...]

    @property
    def detector(self) -> Integrating:
        """How a module is divided."""
        return integrating(self.entry.detector, self.entry.module_size, self.entry.asic_size)

    @property
    def runs(self) -> dict[str, str]:
        """Name of each run (that of its measure, and a number) -> folder, file or pattern."""
        return {
            _run_name(measure, number, len(runs)): run
            for measure, runs in self.measures.items()
            for number, run in enumerate(runs)
        }

    def runs_of(self, measure: str) -> list[str]:
        """Names of the runs of a measure, in their order."""
        n = len(self.measures[measure])
        return [_run_name(measure, number, n) for number in range(n)]

    def asics(self, module: int) -> list[int]:
        """ASICs of a module that are not left out."""
        return [a for a in range(self.detector.asics) if f"{module}/{a}" not in self.entry.without]

    @property
    def currents(self) -> list[str]:
        """Currents of the current source."""
        return list(self.entry.runs.current_source)


def branch(entry: IntegratingDetector) -> Branch:
    """Jobs that an entry asks for."""
    runs = entry.runs
    measures: dict[str, tuple[str, ...]] = {
        f"dark_{stage}": (getattr(runs, f"dark_{stage}"),) for stage in _STAGES
    }
    if runs.xray is not None:
        measures["xray"] = (runs.xray,)
    if runs.pulse_capacitor:
        measures["pulse_capacitor"] = runs.pulse_capacitor
    measures |= {f"current_source_{name}": found for name, found in runs.current_source.items()}
    modules = tuple(m for m in entry.modules if str(m) not in entry.without)
    return Branch(entry, measures, modules)


def steps(branch: Branch) -> list[str]:
    """Files that are made of every ASIC."""
    made = ["dark.nxs", "combined.nxs", "masked.nxs"]
    made += [f"{name}.nxs" for name in ("xray", "pulse_capacitor") if name in branch.measures]
    made += [f"current_source_{current}.nxs" for current in branch.currents]
    return made + (["merged.nxs"] if branch.currents else [])


_STAGES = ("high", "medium", "low")


def _run_name(measure: str, number: int, of: int) -> str:
    # No current has an underscore in its name.
    return measure if of == 1 else f"{measure}_{number}"


def problems(name: str, entry: "IntegratingDetector | PhotonCounter", base: Path) -> Iterator[str]:
    """Say what is wrong with an entry that only its parts together, or its files, show."""
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
                f"{where}: without: {given!r} is no module or ASIC that it has (`3`, or `3/15` "
                f"with ASICs 0 to {n_asics - 1})"
            )
    if min(entry.modules) < 0:
        yield f"{where}: modules {list(entry.modules)} has a negative number"
    if entry.layout == "jungfrau" and entry.detector != "jungfrau":
        yield f"{where}: layout jungfrau has no frames of {entry.detector}; use lab or euxfel"
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


# Set-points of the state that the constants of such a detector depend on.
_SET_POINTS = {
    "integrating": ("gain_mode", "integration_time", "memory_cells"),
    "counter": ("threshold", "energy"),
}


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
    """Measurement of a photon counter -> its raw files or patterns; those that were made."""
    runs = entry.runs
    found = {"dark": runs.dark, "flood": runs.flood, "stability": runs.stability}
    made = {name: (run,) for name, run in found.items() if run is not None}
    return made | ({"rate": runs.rate} if runs.rate else {})
