"""The validated experiment: configuration and tables, with functions that look up values."""

import json
from dataclasses import asdict, dataclass, field
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hklflow.base.axis import Axis
from hklflow.base.errors import HklflowError
from hklflow.base.names import ANALYSIS, analysis, measured
from hklflow.calibration.kinds import KINDS
from hklflow.constants.runs import raw_files
from hklflow.experiment.constants import (
    Branch,
    IntegratingDetector,
    PhotonCounter,
    Stored,
    branch,
    stored_part,
)
from hklflow.experiment.layers import Layer
from hklflow.experiment.models import Config, StoredGeometry
from hklflow.experiment.paths import Paths
from hklflow.experiment.resolve import PER_SCAN, below_command_line, layers_of_scan
from hklflow.experiment.tables import Rotation, Sample, Scan, linked_files, series_ends

if TYPE_CHECKING:
    from hklflow.calibration.states import Schema, State
    from hklflow.calibration.store import Store, Version


@dataclass(frozen=True)
class Experiment:
    """Validated configuration and tables of an experiment, with functions that look up values."""

    config: Config
    base: Path
    samples: dict[str, Sample]
    scans: dict[tuple[str, str], Scan]
    layers: tuple[Layer, ...] = ()
    """Layers that apply to all samples (facility, configuration file, command line), lowest first.
    """
    resolved: dict[tuple[str, str | None], Config] = field(default_factory=dict)
    """Configuration of each sample and scan that has a layer of its own."""
    _versions: "dict[tuple[str, str, int | None, date | None], Version]" = field(
        default_factory=dict
    )

    @cached_property
    def paths(self) -> Paths:
        """Return the path patterns of all products."""
        return Paths(self.config.results, self.config.binning)

    def settings(self, sample: str, scan: str | None = None) -> Config:
        """Return the configuration of a sample or of one of its scans."""
        for key in ((sample, scan), (sample, None)):
            if key in self.resolved:
                return self.resolved[key]
        return self.config

    def layers_of(self, sample: str | None = None, scan: str | None = None) -> list[Layer]:
        """Return the configuration layers of a sample or scan, lowest first.

        The defaults of the package are not included.
        """
        own = []
        if sample is not None:
            own = layers_of_scan(self.config, self.samples, self.scans, sample, scan)
        return below_command_line(self.layers, own)

    def resolved_json(self, sample: str, scan: str) -> str:
        """Return the resolved configuration of a scan and its rows of the tables, as JSON."""
        scan_row, sample_row = self.scans[sample, scan], self.samples[sample]
        sections = self.settings(sample, scan).model_dump(mode="json", include=set(PER_SCAN))
        names = {row.calibration for row in scan_row.rotations.values()} - {None}
        calibrations = {
            name: entry.model_dump(mode="json")
            for name, entry in self.config.calibrations.items()
            if name in names
        }
        tables = {"sample": asdict(sample_row), "scan": asdict(scan_row)}
        del tables["sample"]["parents"]  # the row of the scan contains the name of its parent
        del tables["scan"]["others"]
        if self.axis(sample).is_temperature:
            del tables["scan"]["value"]
        if scan_row.error == 0:
            del tables["scan"]["error"]
        if self.config.binning > 1:
            sections["binning"] = self.config.binning
        for row in tables["scan"]["rotations"].values():
            del row["where"]  # the row number changes if another row is added above
        return json.dumps({**tables, "calibrations": calibrations, **sections})

    def axis(self, sample: str) -> Axis:
        """Return the quantity along which the scans of a sample are compared."""
        return self.settings(sample).series.axis.axis

    def rotations(self, sample: str, scan: str) -> list[str]:
        """Return the names of the rotations of a scan."""
        return list(self.scans[sample, scan].rotations)

    def rotation(self, sample: str, scan: str, rotation: str) -> Rotation:
        """Return one row of the table of scans."""
        return self.scans[sample, scan].rotations[rotation]

    def used_samples(self) -> list[str]:
        """Return the samples that have scans, in the order of the table of scans."""
        return list(dict.fromkeys(sample for sample, _ in self.scans))

    @property
    def note(self) -> str | None:
        """Sentence for an experiment without scans, of which little is run."""
        if self.scans or self.config.stills:
            return None
        return (
            f"{self.config.scans} has no row yet, so only calibrations and constants are made; add "
            "rows with `hklflow import` or `hklflow scan add`"
        )

    @cached_property
    def _rotations(self) -> list[tuple[str, str, str]]:
        return [(s, n, r) for (s, n), scan in self.scans.items() for r in scan.rotations]

    def all_rotations(self) -> list[tuple[str, str, str]]:
        """Return (sample, scan, rotation) of every row of the table of scans."""
        return self._rotations

    def used_calibrations(self) -> list[str]:
        """Return the calibrations of rotations and flood fields, in configuration order.

        While there are no scans, all: at a beamline the calibrant is measured first.
        """
        if not self.scans and not self.config.stills:
            return list(self.config.calibrations)
        used = {self.rotation(*key).calibration for key in self._rotations}
        counters = self.config.constants.values()
        used |= {entry.geometry for entry in counters if isinstance(entry, PhotonCounter)}
        used |= {entry.calibration for entry in self.config.stills.values()}
        return [name for name in self.config.calibrations if name in used]

    @cached_property
    def branches(self) -> dict[str, Branch]:
        """Jobs that make the constants of each integrating detector, by the name of the entry."""
        entries = self.config.constants.items()
        return {name: branch(e) for name, e in entries if isinstance(e, IntegratingDetector)}

    @cached_property
    def raws(self) -> dict[str, tuple[str, str, str]]:
        """Sample, scan and rotation of every raw file or pattern."""
        table = [key for key in self._rotations if not analysis(key[1])]
        return {raw: key for key in table for raw in self.rotation(*key).parts}

    def geometry_file(self, sample: str, scan: str, rotation: str) -> str | None:
        """Return the file of a rotation's detector geometry; None if the raw file has the geometry.

        Raises
        ------
        HklflowError
            If the calibration store has no accepted version for the rotation.
        """
        name = self.rotation(sample, scan, rotation).calibration
        if name is None:
            return None
        if not isinstance(self.config.calibrations[name], StoredGeometry):
            return self.calibration_file(name)
        return self._relative(self.version(sample, scan, rotation).artefact("geometry.json"))

    def calibration_file(self, name: str) -> str:
        """Return the file of a calibration; for a store, the pinned or highest accepted version.

        If no version is accepted, ``on_missing: diagnostic`` allows version 0.

        Raises
        ------
        HklflowError
            If the store has no accepted version.
        """
        if not isinstance(self.config.calibrations[name], StoredGeometry):
            return self.paths.calibration("geometry.json").format(calibration=name)
        state, entry, store = self.state(name), self.stored(name), self.store(name)
        if entry.pin is not None:
            version = store.resolve(
                state.kind,
                state.id,
                scan="",
                run=None,
                pin=entry.pin,
                on_missing=entry.on_missing,
            )
            return self._relative(version.artefact("geometry.json"))
        versions = store.versions(state.kind, state.id)
        usable = [version for version in versions if version.status == "accepted"]
        if not usable and entry.on_missing == "diagnostic":
            usable = [version for version in versions if version.status == "default"]
        if not usable:
            raise HklflowError(
                f"calibration {name} has no accepted version; accept one with `hklflow "
                "calibration accept`, or set `on_missing: diagnostic` for a diagnostic reduction"
            )
        return self._relative(usable[-1].artefact("geometry.json"))

    def constants_file(self, sample: str, scan: str, rotation: str, counter: bool) -> str | None:
        """Return the file of detector constants for a rotation; None if no constants are used.

        Parameters
        ----------
        counter : bool
            True for a photon counter, False for an integrating detector.

        Raises
        ------
        HklflowError
            If the store has no accepted version for the rotation.
        """
        name = self.settings(sample, scan).correct_frames.constants
        entry = self.config.constants.get(name or "")
        if entry is None or isinstance(entry, PhotonCounter) is not counter:
            return None
        if entry.stored is None:
            return self.paths.constants("constants.nxs").format(constants=name)
        found = self.version(sample, scan, rotation, "constants")
        return self._relative(found.artefact("constants.nxs"))

    def normalization_file(self, sample: str, scan: str, rotation: str) -> str | None:
        """Return the file of the measured normalisation of a rotation; None if none is used.

        Raises
        ------
        HklflowError
            If the store has no accepted version for the rotation.
        """
        if self.settings(sample, scan).normalization.use is None:
            return None
        found = self.version(sample, scan, rotation, "normalization")
        return self._relative(found.artefact(KINDS["normalization"].file))

    def corrected_detector(self, sample: str, scan: str) -> IntegratingDetector | None:
        """Return the integrating detector whose constants correct the frames of a scan."""
        name = self.settings(sample, scan).correct_frames.constants
        entry = self.config.constants.get(name or "")
        return entry if isinstance(entry, IntegratingDetector) else None

    def is_corrected(self, sample: str, scan: str) -> bool:
        """Return True if hklflow corrects the frames of a scan with detector constants."""
        return self.corrected_detector(sample, scan) is not None

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.base) if path.is_relative_to(self.base) else path)

    def stored_name(self, sample: str, scan: str, rotation: str, kind: str = "geometry") -> str:
        """Return the entry of a rotation for a kind of calibration; empty if there is none."""
        settings = self.settings(sample, scan)
        entries = {
            "geometry": self.rotation(sample, scan, rotation).calibration,
            "constants": settings.correct_frames.constants,
            "normalization": settings.normalization.use,
        }
        return entries[kind] or ""

    def version(self, sample: str, scan: str, rotation: str, kind: str = "geometry") -> "Version":
        """Return the version of the calibration store for a rotation.

        Parameters
        ----------
        kind : {"geometry", "constants", "normalization"}

        Raises
        ------
        HklflowError
            If there is no version, or the rotation's calibration is not in a store.
        """
        row = self.rotation(sample, scan, rotation)
        name = self.stored_name(sample, scan, rotation, kind)
        if self.stored_kinds.get(name) != kind:
            raise HklflowError(
                f"{sample} {scan} {rotation} uses no {kind} from a store, but "
                f"{name or 'what is in its raw file'}"
            )
        entry = self.stored(name)
        key = (name, f"{sample}/{measured(scan)}", row.run, row.day)
        if key not in self._versions:
            state = self.state(name)
            self._versions[key] = self.store(name).resolve(
                state.kind,
                state.id,
                scan=key[1],
                run=row.run,
                day=row.day,
                pin=entry.pin,
                on_missing=entry.on_missing,
            )
        return self._versions[key]

    @property
    def stored_kinds(self) -> dict[str, str]:
        """Return the kind (see `calibration.kinds`) of each entry with a store, by name."""
        return {
            name: kind.name
            for kind in KINDS.values()
            for name, entry in getattr(self.config, kind.section).items()
            if stored_part(entry) is not None
        }

    def stored(self, name: str) -> Stored:
        """Return the place in the store of an entry of the configuration.

        Raises
        ------
        HklflowError
            If there is no such entry, or the entry is of another kind.
        """
        for kind in KINDS.values():
            found = stored_part(getattr(self.config, kind.section).get(name))
            if found is not None:
                return found
        raise HklflowError(
            f"{name!r} has no store; `calibrations` and `normalizations` (entries with `store` and "
            "`state`) and `constants` (with `stored`) of the configuration have "
            f"{', '.join(self.stored_kinds) or 'none'}"
        )

    def store(self, name: str) -> "Store":
        """Return the calibration store of an entry."""
        from hklflow.calibration.store import Store

        return Store(self.base / Path(self.stored(name).store).expanduser())

    def state(self, name: str) -> "State":
        """Return the instrument state that an entry defines."""
        from hklflow.calibration.states import state_of

        entry = self.stored(name)
        kind = self.stored_kinds[name]
        return state_of(kind, entry.state, self.state_schema(name), entry.aliases)

    def state_schema(self, name: str) -> "Schema":
        """Return the schema of a state: the schema of the entry, or the default schema."""
        from hklflow.calibration.states import read_schema

        own = self.stored(name).state_schema
        return read_schema(own and self.base / own)

    def measured_scans(self, sample: str) -> list[str]:
        """Return the scans of a sample without their analyses, from cold to warm."""
        return [scan for scan in self.scans_of(sample) if not analysis(scan)]

    def analyses_of(self, sample: str, scan: str) -> list[str]:
        """Return the scans that are analyses of a scan of the table, in configuration order."""
        of = measured(scan)
        return [
            name
            for owner, name in self.scans
            if owner == sample and measured(name) == of and analysis(name)
        ]

    def prepared(self, sample: str, scan: str) -> str:
        """Return the scan whose summed or corrected frames a scan reads: mostly its own.

        An analysis that sums and corrects like its scan uses the frames of its scan.
        """
        of = measured(scan)
        own, theirs = self.settings(sample, scan), self.settings(sample, of)
        # Binning, too, takes the saturation of the import into account.
        alike = all(
            getattr(own, name) == getattr(theirs, name) for name in ("sum_scans", "correct_frames")
        )
        alike &= own.import_scan.saturation == theirs.import_scan.saturation
        return of if alike else scan

    def scans_of(self, sample: str, parent: str | None = None) -> list[str]:
        """Return the scans of a sample, or a parent with its children, from cold to warm.

        Scans without a temperature come first. Along another axis they are in ascending order.
        """
        mine = [
            (-1.0 if scan.value is None else scan.value, name)
            for (owner, name), scan in self.scans.items()
            if owner == sample and parent in (None, scan.parent)
        ]
        return [name for _, name in sorted(mine)]

    def raw_inputs(self, rotation: Rotation) -> list[str]:
        """Return the raw files that an import or a sum depends on.

        For an image series, return the first and the last image.
        """
        if (self.base / rotation.raw).is_dir():
            found = raw_files(rotation.raw, self.base)
            return [self._relative(Path(path)) for path in found]
        if rotation.is_series and self.config.simulation is None:
            return [end for raw in rotation.parts for end in series_ends(raw, self.base)]
        return list(rotation.parts)

    def linked_inputs(self, rotation: Rotation) -> list[str]:
        """Return the files that light scan files link; these files are not on command lines."""
        found = [file for raw in rotation.parts for file in linked_files(raw, self.base)]
        return [self._relative(Path(file)) for file in found]

    @property
    def uses_dials(self) -> bool:
        """Return True if DIALS is an engine of any scan."""
        own = [self.settings(*key) for key in self.scans]
        return any(
            "dials" in (found.orientation.engine, found.orientation.spots, found.integrate.engine)
            for found in own
        )

    def reference(self, sample: str, scan: str) -> str | None:
        """Return the scan that is subtracted from a scan; None if nothing is subtracted."""
        named = self.settings(sample, scan).difference.subtract or self.scans[sample, scan].parent
        own = self._of_same_analysis(sample, named, scan)
        return None if own == scan else own

    def scale_reference(self, sample: str, scan: str) -> str | None:
        """Return the scan from which a scan takes its absolute scale; None if it has its own."""
        named = self.settings(sample, scan).absolute_scale.reference
        return None if named is None else self._of_same_analysis(sample, named, scan)

    def _of_same_analysis(self, sample: str, scan: str, of: str) -> str:
        """Return the analysis of a scan with the name of the analysis ``of``, else the scan."""
        name = f"{scan}{ANALYSIS}{analysis(of)}"
        return name if (sample, name) in self.scans else scan

    def stacked(self, sample: str, parent: str) -> list[str]:
        """Return the scans with a temperature in the stack of a parent, from cold to warm.

        Along another axis they are in ascending order.

        The stack of an analysis contains the analyses with its name.
        """
        scans = [s for s in self.scans_of(sample, parent) if analysis(s) == analysis(parent)]
        return [scan for scan in scans if self.scans[sample, scan].value is not None]

    def stacks(self) -> list[tuple[str, str]]:
        """Return (sample, parent) of every stack; a stack has at least two scans."""
        parents = {(sample, scan.parent) for (sample, _), scan in self.scans.items()}
        return [key for key in sorted(parents) if len(self.stacked(*key)) > 1]
