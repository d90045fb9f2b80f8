"""The validated experiment: configuration and tables, and what the rules ask of them."""

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow import stages
from hklflow.base.errors import HklflowError
from hklflow.constants.runs import raw_files
from hklflow.experiment import binned
from hklflow.experiment.constants import IntegratingDetector, PhotonCounter, Stored
from hklflow.experiment.layers import Layer
from hklflow.experiment.models import Config, StoredGeometry
from hklflow.experiment.paths import Paths
from hklflow.experiment.resolve import PER_SCAN, below_command_line, layers_of_scan
from hklflow.experiment.tables import Rotation, Sample, Scan, linked_files, series_ends
from hklflow.geometry import left_out
from hklflow.stage.integration_settings import IntegrationSettings
from hklflow.stage.norms import Corrections
from hklflow.stage.scan_limits import ScanLimits

if TYPE_CHECKING:
    from hklflow.calibration.states import Schema, State
    from hklflow.calibration.store import Store, Version


@dataclass(frozen=True)
class Experiment:
    """A validated experiment; what the rules ask."""

    config: Config
    base: Path
    samples: dict[str, Sample]
    scans: dict[tuple[str, str], Scan]
    layers: tuple[Layer, ...] = ()
    """Facility, configuration file, command line: what holds for all samples, lowest first."""
    resolved: dict[tuple[str, str | None], Config] = field(default_factory=dict)
    """Configuration of the samples and scans for which a layer says something else."""
    _versions: "dict[tuple[str, str, int | None], Version]" = field(default_factory=dict)

    @cached_property
    def paths(self) -> Paths:
        """Patterns of all products."""
        return Paths(self.config.results, self.config.binning)

    def settings(self, sample: str, scan: str | None = None) -> Config:
        """Configuration of a sample or of one of its scans."""
        for key in ((sample, scan), (sample, None)):
            if key in self.resolved:
                return self.resolved[key]
        return self.config

    def layers_of(self, sample: str | None = None, scan: str | None = None) -> list[Layer]:
        """Layers that make the configuration of a sample or scan, lowest first.

        The defaults of the package, which every key has, are not among them.
        """
        own = [] if sample is None else layers_of_scan(self.config, self.scans, sample, scan)
        return below_command_line(self.layers, own)

    def resolved_json(self, sample: str, scan: str) -> str:
        """Configuration of a scan as its layers make it, and its rows of the tables."""
        scan_row, sample_row = self.scans[sample, scan], self.samples[sample]
        sections = self.settings(sample, scan).model_dump(mode="json", include=set(PER_SCAN))
        names = {row.calibration for row in scan_row.rotations.values()} - {None}
        calibrations = {
            name: entry.model_dump(mode="json")
            for name, entry in self.config.calibrations.items()
            if name in names
        }
        tables = {"sample": asdict(sample_row), "scan": asdict(scan_row)}
        del tables["sample"]["parents"]  # the scan's own parent is in its row
        if self.config.binning > 1:
            sections["binning"] = self.config.binning
        for row in tables["scan"]["rotations"].values():
            del row["where"]  # a new row above it would change it
        return json.dumps({**tables, "calibrations": calibrations, **sections})

    def rotations(self, sample: str, scan: str) -> list[str]:
        """Names of the rotations of a scan."""
        return list(self.scans[sample, scan].rotations)

    def rotation(self, sample: str, scan: str, rotation: str) -> Rotation:
        """One row of the table of scans."""
        return self.scans[sample, scan].rotations[rotation]

    def used_samples(self) -> list[str]:
        """Samples that have scans, in the order of the table of scans."""
        return list(dict.fromkeys(sample for sample, _ in self.scans))

    @cached_property
    def _rotations(self) -> list[tuple[str, str, str]]:
        return [(s, n, r) for (s, n), scan in self.scans.items() for r in scan.rotations]

    def all_rotations(self) -> list[tuple[str, str, str]]:
        """(sample, scan, rotation) of every row."""
        return self._rotations

    @cached_property
    def raws(self) -> dict[str, tuple[str, str, str]]:
        """(sample, scan, rotation) of every raw file or pattern."""
        return {raw: key for key in self._rotations for raw in self.rotation(*key).parts}

    def geometry_file(self, sample: str, scan: str, rotation: str) -> str | None:
        """File of a rotation's detector geometry; None if its raw file holds the geometry.

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
        """File of a calibration; of a store the pinned or the highest accepted version.

        Raises
        ------
        HklflowError
            If the store has no accepted version.
        """
        if not isinstance(self.config.calibrations[name], StoredGeometry):
            return self.paths.calibration("geometry.json").format(calibration=name)
        state, pin = self.state(name), self.stored(name).pin
        if pin is not None:
            return self._relative(
                self.store(name)
                .resolve(state.kind, state.id, scan="", run=None, pin=pin)
                .artefact("geometry.json")
            )
        versions = self.store(name).versions(state.kind, state.id)
        accepted = [version for version in versions if version.status == "accepted"]
        if not accepted:
            raise HklflowError(
                f"calibration {name} has no accepted version; accept one with `hklflow "
                "calibration accept`"
            )
        return self._relative(accepted[-1].artefact("geometry.json"))

    def constants_file(self, sample: str, scan: str, rotation: str, counter: bool) -> str | None:
        """File of the detector's constants for a rotation; None if there is none to be used.

        Parameters
        ----------
        counter : bool
            Of a photon counter (True), or of an integrating detector.

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

    def corrected_detector(self, sample: str, scan: str) -> IntegratingDetector | None:
        """Integrating detector with whose constants the frames of a scan are corrected."""
        name = self.settings(sample, scan).correct_frames.constants
        entry = self.config.constants.get(name or "")
        return entry if isinstance(entry, IntegratingDetector) else None

    def is_corrected(self, sample: str, scan: str) -> bool:
        """Whether the frames of a scan are of an integrating detector, corrected by us."""
        return self.corrected_detector(sample, scan) is not None

    def _relative(self, path: Path) -> str:
        return str(path.relative_to(self.base) if path.is_relative_to(self.base) else path)

    def stored_name(self, sample: str, scan: str, rotation: str, kind: str = "geometry") -> str:
        """Entry of the configuration that a rotation has its geometry or constants of; or none."""
        if kind == "constants":
            return self.settings(sample, scan).correct_frames.constants or ""
        return self.rotation(sample, scan, rotation).calibration or ""

    def version(self, sample: str, scan: str, rotation: str, kind: str = "geometry") -> "Version":
        """Version of the calibration store for a rotation.

        Parameters
        ----------
        kind : {"geometry", "constants"}

        Raises
        ------
        HklflowError
            If there is none, or the rotation's calibration is not of the store.
        """
        row = self.rotation(sample, scan, rotation)
        name = self.stored_name(sample, scan, rotation, kind)
        if self.stored_kinds.get(name) != kind:
            raise HklflowError(
                f"{sample} {scan} {rotation} has no {kind} of a store, but "
                f"{name or 'what is in its raw file'}"
            )
        entry = self.stored(name)
        key = (name, f"{sample}/{scan}", row.run)
        if key not in self._versions:
            state = self.state(name)
            self._versions[key] = self.store(name).resolve(
                state.kind,
                state.id,
                scan=key[1],
                run=row.run,
                pin=entry.pin,
                allow_default=isinstance(entry, StoredGeometry) and entry.allow_default,
            )
        return self._versions[key]

    @property
    def stored_kinds(self) -> dict[str, str]:
        """Entries with a store, and their kind: `geometry` of calibrations, or `constants`."""
        geometries = self.config.calibrations.items()
        constants = self.config.constants.items()
        return {name: "geometry" for name, e in geometries if isinstance(e, StoredGeometry)} | {
            name: "constants" for name, e in constants if e.stored is not None
        }

    def stored(self, name: str) -> Stored:
        """Place in the store of an entry of `calibrations` or `constants`.

        Raises
        ------
        HklflowError
            If there is no such entry, or it is of another kind.
        """
        entry = self.config.calibrations.get(name)
        if isinstance(entry, StoredGeometry):
            return entry
        constants = self.config.constants.get(name)
        if constants is not None and constants.stored is not None:
            return constants.stored
        raise HklflowError(
            f"{name!r} is nothing with a store; `calibrations` (entries with `store` and `state`) "
            "and `constants` (with `stored`) of the configuration have "
            f"{', '.join(self.stored_kinds) or 'none'}"
        )

    def store(self, name: str) -> "Store":
        """Calibration store of an entry."""
        from hklflow.calibration.store import Store

        return Store(self.base / Path(self.stored(name).store).expanduser())

    def state(self, name: str) -> "State":
        """State of the instrument that an entry describes."""
        from hklflow.calibration.states import state_of

        entry = self.stored(name)
        kind = self.stored_kinds[name]
        return state_of(kind, entry.state, self.state_schema(name), entry.aliases)

    def state_schema(self, name: str) -> "Schema":
        """Set-points that make a state: the entry's own schema, or the packaged one."""
        from hklflow.calibration.states import read_schema

        own = self.stored(name).state_schema
        return read_schema(own and self.base / own)

    def proposal(self, name: str) -> stages.propose_constants.Params:
        """Parameters of the proposal of constants to the store."""
        entry = self.config.constants[name].stored
        assert entry is not None
        return stages.propose_constants.Params(
            store=Path(entry.store),
            name=name,
            state=entry.state,
            author=entry.author,
            state_schema=entry.state_schema,
            aliases=entry.aliases,
            gates=entry.gates,
        )

    def scans_of(self, sample: str, parent: str | None = None) -> list[str]:
        """Scans of a sample, or those of one parent (itself too), from cold to warm.

        Scans without a temperature come first.
        """
        mine = [
            (-1.0 if scan.temperature is None else scan.temperature, name)
            for (owner, name), scan in self.scans.items()
            if owner == sample and parent in (None, scan.parent)
        ]
        return [name for _, name in sorted(mine)]

    def raw_inputs(self, rotation: Rotation) -> list[str]:
        """Raw files that an import or a sum depends on: files, or both ends of a series."""
        if (self.base / rotation.raw).is_dir():
            found = raw_files(rotation.raw, self.base)
            return [self._relative(Path(path)) for path in found]
        if rotation.is_series and self.config.simulation is None:
            return [end for raw in rotation.parts for end in series_ends(raw, self.base)]
        return list(rotation.parts)

    def linked_inputs(self, rotation: Rotation) -> list[str]:
        """Files with the frames of light scan files: a job depends on them, but is not told."""
        found = [file for raw in rotation.parts for file in linked_files(raw, self.base)]
        return [self._relative(Path(file)) for file in found]

    def sum_params(self, sample: str, scan: str, rotation: str) -> stages.sum_scans.Params:
        """Parameters of a sum of repeated scans."""
        row = self.rotation(sample, scan, rotation)
        given = self.settings(sample, scan).sum_scans.model_dump()
        if row.is_series:
            given["patterns"] = row.parts
        return stages.sum_scans.Params(**given)

    def correct_params(self, sample: str, scan: str, rotation: str) -> stages.correct_frames.Params:
        """Parameters of the correction of an integrating detector's frames."""
        row = self.rotation(sample, scan, rotation)
        given = self.settings(sample, scan).correct_frames.model_dump(exclude={"constants"})
        if row.is_series:
            given["pattern"] = row.raw
        entry = self.corrected_detector(sample, scan)
        if entry is not None and given["asic_size"] is None:
            given["asic_size"] = entry.asic_size
        return stages.correct_frames.Params(**given)

    def import_params(self, sample: str, scan: str, rotation: str) -> stages.import_scan.Params:
        """Parameters of an import: configuration, then what the table says of this rotation."""
        row = self.rotation(sample, scan, rotation)
        settings = {name: value for name, (value, step) in row.goniometer.items() if step is None}
        scanned = [
            (name, start, step)
            for name, (start, step) in row.goniometer.items()
            if step is not None
        ]
        given = self.settings(sample, scan).import_scan.model_dump()
        given["angles"] = given["angles"] | settings
        given["leave_out"] = left_out.of_rotation(given["leave_out"], rotation)
        given["binning"] = self.config.binning
        if self.config.binning > 1:
            # That of a pixel: the file of the block sums has theirs.
            given["saturation"] = None
        if scanned:
            given["scan_axis"], given["start"], given["step"] = scanned[0]
        if self.config.binning == 1 and self._is_plain_series(sample, scan, rotation):
            given["pattern"] = row.raw
        if row.frames is not None:
            given["n_frames"] = row.frames
        if (temperature := self.scans[sample, scan].temperature) is not None:
            given["temperature"] = temperature
        return stages.import_scan.Params(**given)

    def _is_plain_series(self, sample: str, scan: str, rotation: str) -> bool:
        """Whether a rotation's frames are read from a series of images."""
        row = self.rotation(sample, scan, rotation)
        return row.is_series and not row.is_sum and not self.is_corrected(sample, scan)

    def bin_params(self, sample: str, scan: str, rotation: str) -> stages.bin_frames.Params:
        """Parameters of the block sums of a rotation's frames."""
        row, own = self.rotation(sample, scan, rotation), self.settings(sample, scan).import_scan
        # A sum of repeated scans has its own saturation.
        saturation = None if row.is_sum else own.saturation
        pattern = row.raw if self._is_plain_series(sample, scan, rotation) else None
        return stages.bin_frames.Params.model_validate(
            {"binning": self.config.binning, "saturation": saturation, "pattern": pattern}
        )

    def pixel_mask_params(self, sample: str, scan: str) -> stages.pixel_mask.Params:
        """Parameters of a pixel mask."""
        return binned.pixel_mask(self.settings(sample, scan).pixel_mask, self.config.binning)

    def find_peaks_params(self, sample: str, scan: str) -> stages.find_peaks.Params:
        """Parameters of a peak search."""
        return binned.find_peaks(self.settings(sample, scan).find_peaks, self.config.binning)

    def refine_parent_params(self, sample: str, scan: str) -> stages.refine_parent.Params:
        """Parameters of a parent's refinement: configuration, else the table of samples."""
        row = self.samples[sample]
        given = self.settings(sample, scan).refine_parent.model_dump()
        given["space_group"] = given["space_group"] or row.space_group
        given["cell"] = given["cell"] or row.cell
        return stages.refine_parent.Params(
            **given,
            **self._engine(sample, scan),
            accept=self._limits(sample, scan),
            sample=sample,
            scan=scan,
            rotations=self.rotations(sample, scan),
        )

    def _engine(self, sample: str, scan: str) -> dict[str, Any]:
        """What indexes and refines; the start is an input."""
        own = self.settings(sample, scan).orientation
        used = "dials" in (own.engine, own.spots)
        return own.model_dump(exclude={"start"}) | self._programs(used)

    @property
    def uses_dials(self) -> bool:
        """Whether DIALS is an engine of any scan."""
        own = [self.settings(*key) for key in self.scans]
        return any(
            "dials" in (found.orientation.engine, found.orientation.spots, found.integrate.engine)
            for found in own
        )

    def _programs(self, used: bool) -> dict[str, Any]:
        """Where DIALS is, for stages that run it: others need not run again where that changes."""
        return self.config.dials.model_dump() if used else {}

    def refine_params(self, sample: str, scan: str) -> stages.refine.Params:
        """Parameters of a scan's refinement."""
        return stages.refine.Params(
            **self.settings(sample, scan).refine.model_dump(),
            **self._engine(sample, scan),
            accept=self._limits(sample, scan),
            sample=sample,
            scan=scan,
            rotations=self.rotations(sample, scan),
        )

    def _limits(self, sample: str, scan: str) -> ScanLimits:
        own = self.settings(sample, scan).accept
        return ScanLimits(**{name: getattr(own, name) for name in ScanLimits.model_fields})

    def transform_params(
        self, sample: str, scan: str, rotation: str, part: int = 0
    ) -> stages.transform.Params:
        """Parameters of one rotation's transform, or of one of its blocks of frames."""
        given = self.settings(sample, scan).transform.model_dump()
        blocks = (part, self.config.frame_blocks)
        return stages.transform.Params(**given, rotation=rotation, part=blocks)

    def mask_3d_params(self, sample: str, scan: str, rotation: str) -> stages.mask_3d.Params:
        """Parameters of a 3-D mask; the rotation's name is for the mask from the model only."""
        own = binned.mask_3d(self.settings(sample, scan).mask_3d, self.config.binning)
        return stages.mask_3d.Params(**own.model_dump(), rotation=rotation if own.model else None)

    def _corrections(self, sample: str, scan: str) -> dict[str, Any]:
        """Factors of the norm: the same for the transform and for Bragg intensities."""
        own = self.settings(sample, scan).transform
        return {name: getattr(own, name) for name in Corrections.model_fields}

    def converge_params(self, sample: str, scan: str) -> stages.converge.Params:
        """Parameters of the converging loop of a scan."""
        return stages.converge.Params(
            **self.settings(sample, scan).converge.model_dump(),
            flat_field=self.settings(sample, scan).transform.flat_field,
            integrate=self._integration(sample, scan),
            sample=sample,
            scan=scan,
            rotations=self.rotations(sample, scan),
        )

    def _integration(self, sample: str, scan: str) -> IntegrationSettings:
        own = binned.integrate(self.settings(sample, scan).integrate, self.config.binning)
        return IntegrationSettings(
            **{name: getattr(own, name) for name in IntegrationSettings.model_fields}
        )

    def integrate_params(self, sample: str, scan: str, rotation: str) -> stages.integrate.Params:
        """Parameters of the integration of one rotation."""
        own = binned.integrate(self.settings(sample, scan).integrate, self.config.binning)
        return stages.integrate.Params(
            **own.model_dump(),
            **self._programs(own.engine == "dials"),
            **self._corrections(sample, scan),
            rotation=rotation,
        )

    def scale_params(self, sample: str, scan: str) -> stages.scale_reflections.Params:
        """Parameters of the scaling of a scan's reflections."""
        return stages.scale_reflections.Params(
            **self.settings(sample, scan).scale_reflections.model_dump(),
            rotations=self.rotations(sample, scan),
        )

    def merge_reflections_params(self, sample: str, scan: str) -> stages.merge_reflections.Params:
        """Parameters of the merge of a scan's reflections: Friedel mates are as in scaling."""
        own = self.settings(sample, scan)
        return stages.merge_reflections.Params(
            **own.merge_reflections.model_dump(), anomalous=own.scale_reflections.anomalous
        )

    @property
    def _binned(self) -> str:
        """What titles say of a quick look."""
        b = self.config.binning
        return "" if b == 1 else f", binned {b} x {b}"

    def scan_title(self, sample: str, scan: str) -> str:
        """Title of the master file of a scan."""
        return f"{sample} {scan}{self._binned}"

    def _title(self, what: str, sample: str, scan: str, kind: str) -> str:
        temperature = self.scans[sample, scan].temperature
        at = "" if temperature is None else f" at {temperature:g} K"
        return f"{what} of {sample} {scan}{at}{_MASKED[kind]}{self._binned}"

    def merge_params(self, sample: str, scan: str, kind: str) -> stages.merge.Params:
        """Parameters of a merge."""
        own = self.settings(sample, scan).merge
        return stages.merge.Params(
            **own.model_dump(), title=self._title("S(Q)", sample, scan, kind)
        )

    def symmetrise_params(self, sample: str, scan: str, kind: str) -> stages.symmetrise.Params:
        """Parameters of symmetrising."""
        own = self.settings(sample, scan).symmetrise
        title = self._title("symmetrised S(Q)", sample, scan, kind)
        return stages.symmetrise.Params(**own.model_dump(), title=title)

    def fill_params(self, sample: str, scan: str, kind: str) -> stages.fill.Params:
        """Parameters of punching and filling."""
        own = self.settings(sample, scan).fill
        title = self._title("diffuse S(Q)", sample, scan, kind)
        return stages.fill.Params(**own.model_dump(), title=title)

    def pdf_params(self, sample: str, scan: str, which: str, kind: str) -> stages.pdf.Params:
        """Parameters of a pair distribution, ``delta`` or ``total``."""
        own = self.settings(sample, scan).pdf
        what = {"delta": "3D-ΔPDF", "total": "total PDF"}[which]
        title = self._title(what, sample, scan, kind)
        return stages.pdf.Params(**own.model_dump(), title=title)

    def reference(self, sample: str, scan: str) -> str | None:
        """Scan that is subtracted from a scan; None if that is the scan itself."""
        own = self.settings(sample, scan).difference.subtract or self.scans[sample, scan].parent
        return None if own == scan else own

    def difference_params(self, sample: str, scan: str, kind: str) -> stages.difference.Params:
        """Parameters of the difference to the reference."""
        title = self._title("", sample, scan, kind).removeprefix(" of ")
        reference = self._title("", sample, str(self.reference(sample, scan)), "transform")
        own = self.settings(sample, scan).difference
        return stages.difference.Params(
            **own.model_dump(), title=f"{title} minus {reference.removeprefix(' of ')}"
        )

    def planes_params(self, sample: str, scan: str) -> stages.planes.Params:
        """Parameters of the pictures of planes."""
        return stages.planes.Params(**self.settings(sample, scan).planes.model_dump())

    def stack_params(self, sample: str, parent: str, kind: str) -> stages.stack.Params:
        """Parameters of the stack of a parent's volumes along temperature."""
        scans = self.stacked(sample, parent)
        return stages.stack.Params(
            **self.settings(sample).stack.model_dump(),
            space_group=self.refine_parent_params(sample, parent).space_group,
            title=f"S(Q) of {sample} against temperature, parent {parent}{_MASKED[kind]}"
            f"{self._binned}",
            scans=scans,
            temperatures=[self.scans[sample, scan].temperature for scan in scans],
        )

    def stack_pdf_params(self, sample: str, parent: str, kind: str) -> stages.stack_pdf.Params:
        """Parameters of the stack of a parent's 3D-ΔPDFs along temperature."""
        scans = self.stacked(sample, parent)
        return stages.stack_pdf.Params(
            **self.settings(sample).stack_pdf.model_dump(),
            title=f"3D-ΔPDF of {sample} against temperature, parent {parent}{_MASKED[kind]}"
            f"{self._binned}",
            scans=scans,
            temperatures=[self.scans[sample, scan].temperature for scan in scans],
        )

    def page_params(self, sample: str) -> stages.sample_page.Params:
        """Parameters of the page of a sample."""
        scans = self.scans_of(sample)
        return stages.sample_page.Params(
            sample=sample,
            results=self.paths.folder,
            shared=self.paths.unbinned.folder if self.config.binning > 1 else None,
            scans=scans,
            temperatures=[
                float("nan") if (at := self.scans[sample, scan].temperature) is None else at
                for scan in scans
            ],
            title=f"{sample}{self._binned}",
        )

    def stacked(self, sample: str, parent: str) -> list[str]:
        """Scans of a parent that stand in its stack: those with a temperature, cold to warm."""
        scans = self.scans_of(sample, parent)
        return [scan for scan in scans if self.scans[sample, scan].temperature is not None]

    def stacks(self) -> list[tuple[str, str]]:
        """(sample, parent) of every stack: there is something to stack from two scans on."""
        parents = {(sample, scan.parent) for (sample, _), scan in self.scans.items()}
        return [key for key in sorted(parents) if len(self.stacked(*key)) > 1]


_MASKED = {"transform": "", "masked_transform": ", 3-D masked"}
_MASKED |= {f"symm_{kind}": f", symmetrised{masked}" for kind, masked in _MASKED.items()}
