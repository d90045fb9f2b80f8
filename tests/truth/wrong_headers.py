"""Worlds whose header is wrong in one thing, in experiments into which remedies are pasted.

An experiment has a configuration, tables and headers in memory; `Pasted.refined` loads them as
`hklflow` does, imports every rotation and refines it as a parent.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.experiment import config as experiments
from hklflow.experiment.layers import merged
from hklflow.experiment.params import frames, orientation
from hklflow.formats.header import Header
from hklflow.geometry import Detector
from hklflow.images.pixel_binning import PixelBinning
from hklflow.images.scan import RotationScan
from hklflow.stage.rehearsal import FrameFacts
from hklflow.stages import import_scan, refine_parent
from tests.truth import world_scans, worlds
from tests.truth.pictures import without_pictures

SCALE = ("scale", "distance", "wavelength")
# Class: kind of world, size, systems, and words by which a sentence names it.
CLASSES: dict[str, tuple[str, float | None, tuple[str, ...], str]] = {
    "axis": ("wrong_header:axis", None, worlds.SYSTEMS, "sense of the rotation|mirrored"),
    "mirrored": ("wrong_header:mirrored", None, worlds.SYSTEMS, "sense of the rotation|mirrored"),
    "beam": ("wrong_header:beam", 25.0, worlds.SYSTEMS, "beam centre moved|detector arm"),
    "arm": ("wrong_header:arm", 20.0, worlds.SYSTEMS, "beam centre moved|detector arm"),
    "distance": ("wrong_header:distance", 0.1, worlds.SYSTEMS, "wrong by about|detector's dist"),
    "wavelength": ("wrong_header:wavelength", 0.08, worlds.SYSTEMS, "wrong by about|'s distance"),
    "nanometre": ("wrong_header:nanometre", None, worlds.SYSTEMS, "wrong by about|the wavelength"),
    "keV": ("wrong_header:keV", None, worlds.SYSTEMS, "wrong by about|the wavelength"),
    "setting": (
        "wrong_header:setting",
        None,
        ("orthorhombic", "monoclinic", "trigonal"),
        "of the setting",
    ),
    "right": ("noise", 0.6, worlds.SYSTEMS, "with the|with images|wrong by about"),
}


@dataclass(frozen=True)
class Answer:
    """What the stages make of an experiment: a refusal, or ``parent.json``."""

    refusal: str
    data: dict[str, Any]

    @property
    def explanation(self) -> str:
        """The part of a refusal that says what would index the peaks."""
        found = re.search(
            r"; ((with (the|images)|\d+ of \d+ peaks are indexed by a cell).*)", self.refusal
        )
        return "" if found is None else found[1]

    @property
    def warnings(self) -> str:
        return " ".join(self.data.get("warnings", []))


@dataclass(frozen=True)
class Pasted:
    """An experiment with one scan ``s/a`` of a world."""

    world: worlds.World
    folder: Path
    detectors: Sequence[Detector]
    config: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    cell: Sequence[float] | None = None
    space_group: str | None = None
    binning: int = 1
    headers: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def experiment(self) -> Any:
        """Write the tables and load the experiment."""
        self.folder.mkdir(parents=True, exist_ok=True)
        cell = self.world.cell if self.cell is None else self.cell
        group = self.space_group or self.world.space_group
        numbers = "\t".join(f"{x:.6f}" for x in cell)
        (self.folder / "samples.tsv").write_text(
            f"sample\tspace_group\ta\tb\tc\talpha\tbeta\tgamma\ns\t{group}\t{numbers}\n"
        )
        lines = ["sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration"]
        for i in range(len(self.world.scans)):
            (self.folder / f"r{i}.h5").touch()
            lines.append(f"s\ta\t\t\tr{i}\tr{i}.h5\t{self.columns.get(f'r{i}', '')}\t")
        (self.folder / "scans.tsv").write_text("\n".join(lines) + "\n")
        base = {
            "samples": "samples.tsv",
            "scans": "scans.tsv",
            "binning": self.binning,
            "import_scan": {"monitor": "none", "exposure": 1.0},
            "refine_parent": {"grid_limits": [1, 1, 1]},
        }
        return experiments.load(merged([base, self.config]), self.folder)

    def scan(self, number: int, experiment: Any) -> RotationScan:
        """Import a rotation."""
        rotation = world_scans.rotation_of(self.world, number)
        detector, goniometer, scan = self.detectors[number], rotation.goniometer, rotation.scan
        unbinned = (self.binning * detector.shape[0], self.binning * detector.shape[1])
        header = Header(
            wavelength=rotation.beam.wavelength,
            polarization=0.99,
            detector=detector,
            goniometer=goniometer,
            start_deg=float(np.degrees(scan.start)),
            step_deg=float(np.degrees(scan.step)),
            binning=None if self.binning == 1 else PixelBinning(self.binning, unbinned),
        )
        header = replace(header, **self.headers.get(number, {}))
        facts = FrameFacts((scan.n_frames, *detector.shape), np.dtype(np.int32), header)
        params = frames.import_scan(
            experiment, {"sample": "s", "scan": "a", "rotation": f"r{number}"}
        )
        return import_scan.collected(f"r{number}.h5", facts, None, None, params)[0]

    @without_pictures()
    def refined(self) -> Answer:
        """Import, index and refine."""
        output = self.folder / "parent.json"
        scans: list[Path] = []
        peaks: list[Path] = []
        try:
            experiment = self.experiment()
            for i in range(len(self.world.scans)):
                scans.append(self.folder / f"r{i}.nxs")
                nexus.write_scan(scans[-1], self.scan(i, experiment), f"r{i}", None)
                peaks.append(self.folder / f"p{i}.nxs")
                nexus.write_peaks(peaks[-1], world_scans.table_of(self.world, i))
            refine_parent.main(
                inputs=refine_parent.Inputs(scans=scans, peaks=peaks),
                outputs=refine_parent.Outputs(orientation=output, picture=self.folder / "p.png"),
                params=orientation.refine_parent(experiment, {"sample": "s", "scan": "a"}),
            )
        except HklflowError as error:
            return Answer(str(error), {})
        return Answer("", stage.read_json(output))

    def with_remedy(self, text: str) -> "Pasted":
        """Paste one remedy."""
        pasted = self
        for code in re.findall(r"`([^`]*)`", text):
            if re.match(r"(import_scan|per_scan|per_sample): ", code):
                pasted = replace(pasted, config=merged([pasted.config, yaml.safe_load(code)]))
        for code, name in re.findall(r"`([^`{]*=[^`]*)` for (\w+)", text):
            pasted = replace(pasted, columns={**pasted.columns, name: code})
        if match := re.search(r"space group `([^`]*)`", text):
            pasted = replace(pasted, space_group=match[1])
        if match := re.search(r"the cell ([-0-9. ]+)", text):
            pasted = replace(pasted, cell=[float(x) for x in match[1].split()])
        if match := re.search(r"pixels of ([0-9.]+) x [0-9.]+ µm", text):
            size = float(match[1]) * 1e-6 * self.binning
            pasted = replace(pasted, detectors=[_resized(d, size) for d in self.detectors])
        if pasted == self:
            raise ValueError(f"nothing to paste in {text!r}")
        return pasted


def _resized(detector: Detector, size: float) -> Detector:
    """A calibration with the same distance and beam centre, and other pixels."""
    along = detector.distance * detector.normal
    origin = along + (detector.origin - along) * size / detector.pixel_size[0]
    return replace(detector, origin=origin, pixel_size=(size, size))


def remedies(explanation: str) -> list[str]:
    """Return the remedies of the first of the explanations."""
    first = re.split(r"; or (?=with )", explanation)[0]
    if "correct the wrong one: " in first:
        return first.split("correct the wrong one: ")[1].split(", or ")
    texts = [re.sub(r" \(.*", "", part) for part in re.split("write ", first)[1:]]
    return [one for text in texts for one in text.split(", or for ")]


def stated(world: worlds.World, folder: Path, **more: Any) -> Pasted:
    """Return the experiment of a world as its header states it."""
    numbers = range(len(world.scans))
    detectors = [world_scans.rotation_of(world, i).detector for i in numbers]
    return Pasted(world, folder, detectors, **more)


def true_detector(world: worlds.World) -> Detector:
    """Return the detector as it is."""
    instrument = world.sample.instrument
    size = (instrument.pixel_size, instrument.pixel_size)
    return Detector(instrument.shape, size, instrument.origin, instrument.slow, instrument.fast)
