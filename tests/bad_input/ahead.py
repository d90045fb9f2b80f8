"""Refusals that need no pixels: broken experiments, the job that refuses each, and where.

`REFUSED` has one case for each place in the code where a job can refuse before it reads pixels, and
`OTHERS` says of all other places why `hklflow check` cannot tell them, or how it does.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
import yaml

from hklflow import stage
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry.lattice import b_matrix
from hklflow.images.pixel_binning import PixelBinning
from tests.truth.orientations import write_orientation

from .cases import Spoil, cut, edited, nothing, replaced, several, written
from .experiment import CELL, CONFIG, SHAPE, frames, rotation
from .headers import MONITOR, TRANSMISSION, gone, r1

R1 = {"sample": "quartz", "scan": "300K", "rotation": "r1"}
SERIES = {"sample": "quartz", "scan": "200K", "rotation": "r1"}
PARENT = {"sample": "quartz", "scan": "300K"}
LAB = {"calibration": "lab"}
POWDER = {"calibration": "powder"}
DATA = "entry/data/data"


@dataclass(frozen=True)
class Refused:
    """A broken experiment.

    Attributes
    ----------
    wrong : str
        What is wrong, in a few words.
    site : str
        File and function of the refusal.
    rule, at : str, mapping
        The job that refuses.
    told : str
        Part of its sentence.
    spoil : function
        Damages the good experiment in a folder.
    config : mapping
        What the configuration has in addition.
    alone : bool
        The job refuses before it reads its inputs, so that they need not be made.
    before : function
        Makes products that the tiny experiment has too few peaks for.
    """

    wrong: str
    site: str
    rule: str
    at: dict[str, str]
    told: str
    spoil: Spoil = nothing
    config: dict[str, Any] = field(default_factory=dict)
    alone: bool = False
    before: Callable[[], None] = lambda: None

    def make(self, folder: Path) -> None:
        """Break the experiment in a folder."""
        self.spoil(folder)
        data = merged(yaml.safe_load(CONFIG), self.config)
        (folder / "config/config.yaml").write_text(yaml.safe_dump(data))


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Put nested values over others."""
    out = dict(below)
    for key, value in above.items():
        inner = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if inner else value
    return out


# ---------------------------------------------------------------------- ways to break


def row(old: str, new: str) -> Spoil:
    """Change a row of the table of scans."""
    return edited("config/scans.tsv", (old, new))


def image(name: str, shape: tuple[int, ...] = (5, 5)) -> Spoil:
    """Write an image of another detector."""

    def spoil(folder: Path) -> None:
        fabio.tifimage.TifImage(data=np.ones(shape, np.int32)).write(str(folder / name))

    return spoil


def raw(name: str = "raw/r1.nxs", **changes: Any) -> Spoil:
    """Write another raw file in the place of the first."""

    def spoil(folder: Path) -> None:
        facts: dict[str, Any] = {
            "shape": SHAPE,
            "n_frames": 6,
            "pixel_size": (1e-4, 1e-4),
            "origin": (0.0005, 0.0006, 0.1),
            "slow": (0.0, -1.0, 0.0),
            "fast": (-1.0, 0.0, 0.0),
            "wavelength": 0.5,
            "axis_names": ("phi",),
            "axes": [(-1.0, 0.0, 0.0)],
            "angles": [0.0],
            "start": np.radians(-5.0),
            "step": np.radians(0.5),
            "exposure": 0.1,
            "monitor": 100.0 + np.arange(6),
            "polarization": 0.99,
        } | changes
        n_slow, n_fast = facts["shape"]
        counts = frames()[:, :n_slow, :n_fast].astype(facts.get("dtype", np.uint32))
        with NXmxWriter(folder / name, NXmxHeader(**facts)) as writer:
            writer.append(counts)

    return spoil


def start(change: Any) -> Spoil:
    """Change the orientation that is given."""

    def spoil(folder: Path) -> None:
        path = folder / "raw/orientation.json"
        data = stage.read_json(path)
        change(data)
        stage.write_json(path, data)

    return spoil


def _farther(data: dict[str, Any]) -> None:
    for one in data["rotations"].values():
        one["beam"]["wavelength_A"] *= 1.2


def _of_another_detector(data: dict[str, Any]) -> None:
    for one in data["rotations"].values():
        one["detector"]["shape"] = [13, 10]


def powder(**settings: Any) -> dict[str, Any]:
    """Configuration with a calibrant image, which a scan uses."""
    entry = {"image": "raw/powder.tif", "wavelength": 0.5, "pixel_size": [1e-4, 1e-4]}
    return {"calibrations": {"powder": entry | {"polarization": 0.99} | settings}}


def _powder(*more: Spoil) -> Spoil:
    return several(image("raw/powder.tif", SHAPE), row("\tlab\t", "\tpowder\t"), *more)


def _stack(folder: Path) -> None:
    with h5py.File(folder / "raw/powder.h5", "w") as file:
        file["scan/images"] = frames()


def _binned_before(folder: Path) -> None:
    raw(shape=(6, 5), binning=PixelBinning(2, SHAPE))(folder)


def _oriented() -> None:
    """Accept an orientation of the scan 300K, whose frames have no peaks to refine one."""
    scan = Path("results/quartz/300K")
    scan.mkdir(parents=True)
    write_orientation(scan / "orientation.json", {"r1": rotation()}, b_matrix(CELL))
    stage.write_json(scan / "accepted.json", {"accepted": True})


def _without_vector(folder: Path) -> None:
    with h5py.File(folder / "raw/r1.nxs", "r+") as file:
        del file["entry/sample/transformations/phi"].attrs["vector"]


def _without_line(word: str) -> Spoil:
    """Take a line out of the PONI file."""

    def spoil(folder: Path) -> None:
        path = folder / "raw/lab.poni"
        lines = path.read_text().splitlines()
        path.write_text("\n".join(line for line in lines if not line.startswith(word)) + "\n")

    return spoil


SUM = row("raw/r1.nxs", "raw/r1.nxs + raw/repeated.nxs")
ONE_AXIS = {"per_scan": {"quartz/200K": {"import_scan": {"axes": ["phi=-1,0,0"]}}}}
TIFF = several(row("r3_####.cbf", "r4_####.tif"), row("chi=0 phi=-5:0.5", "chi=0 phi=-5"))
ASSEMBLE = "formats/assemble.py:scan"


def _import(wrong: str, told: str, spoil: Spoil = nothing, **config: Any) -> Refused:
    return Refused(wrong, ASSEMBLE, "import_scan", R1, told, spoil, config)


def _started(wrong: str, site: str, told: str, change: Any, **orientation: Any) -> Refused:
    config = {"orientation": {"start": "raw/orientation.json", **orientation}}
    return Refused(wrong, site, "refine_parent", PARENT, told, start(change), config)


def _calibrant(wrong: str, site: str, told: str, spoil: Spoil = nothing, **more: Any) -> Refused:
    where = "powder_calibration"
    return Refused(wrong, site, where, POWDER, told, _powder(spoil), powder(**more))


REFUSED = [
    # What was met first: each of these passed `check` and stopped a job later.
    Refused(
        "no axes",
        ASSEMBLE,
        "import_scan",
        SERIES,
        "the goniometer is not known: set `import_scan: axes`",
        config={"per_scan": {"quartz/200K": {"import_scan": {"axes": []}}}},
    ),
    _import(
        "no monitor",
        "the raw file has no monitor: set `import_scan: {monitor: none}`",
        gone("entry/monitor"),
    ),
    Refused(
        "neither start nor step",
        ASSEMBLE,
        "import_scan",
        SERIES,
        "the start (None) or the step (None) of the scan is not known",
        TIFF,
    ),
    _import(
        "transmission of 100",
        "the transmission of the attenuators (shape (), 100 to 100) must be above",
        r1(TRANSMISSION, 100.0),
    ),
    Refused(
        "annulus in 1/Å",
        "images/annulus.py:annulus",
        "find_peaks",
        R1,
        "annulus [4.2, 4.7] of the background has no good pixel",
        config={"find_peaks": {"annulus": [4.2, 4.7]}},
    ),
    Refused(
        "window longer than the rotation",
        "images/frame_scale.py:require_window",
        "frame_scale",
        R1,
        "window=31 of the transmission over 6 frames",
        config={"frame_scale": {"window": 31}},
    ),
    # The shape of the crystal.
    *(
        Refused(
            wrong,
            site,
            "absorption",
            PARENT,
            told,
            config={"absorption": absorption},
            before=_oriented,
        )
        for wrong, site, told, absorption in (
            (
                "sizes of the crystal in µm",
                "stages/absorption.py:require_transparent",
                "(μ 100 1/mm, largest extent 20 mm): `absorption` needs lengths in mm",
                {"shape": {"kind": "sphere", "radii": [10]}, "mu": 100.0},
            ),
            (
                "number of formula units that no cell holds",
                "transform/attenuation.py:by_cell",
                "300 formula units of SiO2 in a cell of 112.7 Å³ have a density of 266 g/cm³, "
                "which no crystal has (0.05 to 25); correct `absorption: {formula_units: ...}`",
                {"shape": {"kind": "sphere", "radii": [0.1]}, "formula_units": 300},
            ),
            (
                "crystal without attenuation",
                "stages/absorption.py:_formula",
                "the attenuation of SiO2 needs `absorption: {density: ...}` in g/cm³ or",
                {"shape": {"kind": "sphere", "radii": [0.1]}, "formula": "SiO2"},
            ),
            (
                "unknown element in the formula of the crystal",
                "transform/attenuation.py:_parsed",
                "the formula 'XxO3' is not known (unknown symbol Xx detected)",
                {"shape": {"kind": "sphere", "radii": [0.1]}, "formula": "XxO3", "density": 3},
            ),
            (
                "faces that leave the crystal open",
                "transform/crystal_shape.py:polyhedron",
                "the 4 faces do not enclose a volume: the crystal is open along",
                {
                    "shape": {
                        "kind": "faces",
                        "faces": [
                            {"hkl": hkl, "distance": 0.1}
                            for hkl in ([1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1])
                        ],
                    },
                    "mu": 1.0,
                },
            ),
            (
                "parallel directions of a plate",
                "transform/crystal_shape.py:axes_from",
                "in the holder's frame, are parallel",
                {
                    "shape": {
                        "kind": "box",
                        "thickness": [0.1, 0.2, 0.3],
                        "first": {"holder": [1, 0, 0]},
                        "second": {"holder": [-2, 0, 0]},
                    },
                    "mu": 1.0,
                },
            ),
        )
    ),
    # The peaks of a refinement.
    Refused(
        "peaks of frames that are not there",
        "stage/orientation/choice.py:require_choice",
        "refine_parent",
        PARENT,
        "`orientation: use_frames` has 40-50, but r1 uses the raw frames 0 to 5",
        config={"orientation": {"use_frames": ["40-50"]}},
    ),
    Refused(
        "list of peaks without a first line",
        "stage/peak_choice.py:read_listed",
        "refine_parent",
        PARENT,
        "raw/odd.tsv is no table of peaks: its first line has no column sample, scan,",
        written("raw/odd.tsv", "quartz\t300K\tr1\t3\t2\t2\n"),
        {"orientation": {"leave_out_peaks": "raw/odd.tsv"}},
    ),
    # The facts of a scan.
    _import("monitor of 0", "(frame 3 has 0): leave out", r1(MONITOR, [9.0, 9, 9, 0, 9, 9])),
    _import("frames missing", "has 6 frames but the scan table expects 7", row("\t6\n", "\t7\n")),
    _import(
        "last frame beyond",
        "frames 0 to 9 are not within 0 to 5",
        **{"import_scan": {"last_frame": 9}},
    ),
    _import(
        "frame left out that is none", "numbered 0 to 5", **{"import_scan": {"leave_out": ["9"]}}
    ),
    _import("all frames left out", "leaves no frame", **{"import_scan": {"leave_out": ["0-5"]}}),
    _import("no such scan axis", "no goniometer axis om", **{"import_scan": {"scan_axis": "om"}}),
    Refused(
        "angle of an axis missing",
        ASSEMBLE,
        "import_scan",
        SERIES,
        "the angle of goniometer axis chi is not known",
        row("chi=0 phi=-5:0.5", "phi=-5:0.5"),
    ),
    Refused(
        "geometry of another detector",
        ASSEMBLE,
        "import_scan",
        SERIES,
        "frames have (12, 10) pixels but the geometry has (20, 20)",
        config={"calibrations": {"lab": {"shape": [20, 20]}}},
    ),
    Refused(
        "binned frames among raw files",
        "stages/import_scan.py:_binning",
        "import_scan",
        R1,
        "raw/r1.nxs is binned 2 x 2, but `binning` is 1",
        _binned_before,
    ),
    Refused(
        "header with an axis of no direction",
        "formats/nxtransformations.py:axis_vector",
        "import_scan",
        R1,
        "has no vector; correct the file",
        _without_vector,
    ),
    # Calibrations.
    Refused(
        "PONI file without a wavelength",
        "stages/import_poni.py:converted",
        "import_poni",
        LAB,
        "raw/lab.poni has no Wavelength; set `wavelength` in Å",
        _without_line("Wavelength"),
    ),
    Refused(
        "PONI file without a distance",
        "formats/poni.py:read_poni.number",
        "import_poni",
        LAB,
        "is missing in raw/lab.poni; a PONI file needs it",
        _without_line("Distance"),
    ),
    _calibrant(
        "unknown calibrant",
        "calibration/calibrants.py:_from_pyfai",
        "pyFAI does not know the calibrant 'CeO3'",
        calibrant="CeO3",
    ),
    _calibrant(
        "ring that the calibrant has not",
        "calibration/calibrants.py:read_calibrant",
        "purge_rings: 5000 is not a ring of CeO2",
        purge_rings=[5000],
    ),
    _calibrant(
        "calibrant on an unknown detector",
        "calibration/detectors.py:known_detector",
        "pyFAI does not know the detector 'Pilatos'",
        detector="Pilatos",
    ),
    _calibrant(
        "calibrant on another detector",
        "calibration/detectors.py:KnownDetector.check",
        "pixel_size (0.0001, 0.0001) m differs from Pilatus 300k",
        detector="Pilatus 300k",
    ),
    _calibrant(
        "dark image of another detector",
        "stages/powder_calibration.py:_read",
        "dark: raw/dark.tif has (5, 5) pixels but the powder image has (12, 10)",
        image("raw/dark.tif"),
        dark="raw/dark.tif",
    ),
    _calibrant(
        "calibrant in HDF5 of no known layout",
        "formats/exposures.py:_frames",
        "; or name its dataset: `raw/powder.h5::/path`",
        _stack,
        image="raw/powder.h5",
    ),
    _calibrant(
        "calibrant image cut short",
        "formats/images.py:_open",
        "frame 0 cannot be read from raw/powder.tif",
        cut("raw/powder.tif", 0.05),
    ),
    # Sums and block sums.
    Refused(
        "repeated scans with different geometry",
        "formats/sum_raw.py:require_alike",
        "sum_scans",
        R1,
        "the scans were not taken under identical conditions: wavelength",
        several(
            SUM, replaced("raw/repeated.nxs", "entry/instrument/beam/incident_wavelength", 0.6)
        ),
    ),
    Refused(
        "repeated scans of fractions",
        "formats/sum_raw.py:types_of_sum",
        "sum_scans",
        R1,
        "frames of type float32 cannot be summed",
        several(
            SUM,
            replaced("raw/repeated.nxs", DATA, frames(2).astype(np.float32)),
            replaced("raw/r1.nxs", DATA, frames().astype(np.float32)),
        ),
    ),
    Refused(
        "quick look of binned frames",
        "stages/bin_frames.py:_binning",
        "bin_frames",
        R1,
        "raw/r1.nxs is already binned 2 x 2",
        _binned_before,
        {"binning": 2},
    ),
    Refused(
        "frames smaller than a block",
        "images/pixel_binning.py:PixelBinning.__post_init__",
        "bin_frames",
        R1,
        "frames of (6, 5) pixels cannot be binned 8 x 8",
        raw(shape=(6, 5)),
        {"binning": 8},
    ),
    Refused(
        "quick look with the geometry of another detector",
        "images/pixel_binning.py:PixelBinning.require",
        "import_scan",
        SERIES,
        "is for (20, 20) pixels (slow, fast), but the frames had",
        config={"binning": 2, "calibrations": {"lab": {"shape": [20, 20]}}},
    ),
    # Masks and flat fields.
    Refused(
        "mask image of another detector",
        "stage/mask_steps.py:_raise",
        "pixel_mask",
        R1,
        "the mask has 5 × 5 pixels (slow × fast), but the image 12 × 10",
        image("raw/other.tif"),
        {"pixel_mask": {"image": "raw/other.tif"}},
    ),
    Refused(
        "gaps of another detector",
        "stage/mask_steps.py:detector_gaps",
        "pixel_mask",
        R1,
        "the detector Pilatus 300k has 619 × 487 pixels (slow × fast), the image 12 × 10",
        config={"pixel_mask": {"detector": "Pilatus 300k"}},
    ),
    Refused(
        "flat field of another detector",
        "stage/flat_fields.py:read_flat_field",
        "transform",
        R1,
        "raw/flat.tif has (5, 5) pixels, the frames have (12, 10)",
        image("raw/flat.tif"),
        {"transform": {"flat_field": "raw/flat.tif"}},
        before=_oriented,
    ),
    # The peak search and the 3-D mask.
    Refused(
        "frames of 64 bits",
        "images/statistics.py:require_type",
        "find_peaks",
        R1,
        "frames of type uint64 cannot be summed without overflow",
        replaced("raw/r1.nxs", DATA, frames().astype(np.uint64)),
    ),
    Refused(
        "three frames",
        "images/mask3d.py:require_length",
        "mask_3d",
        R1,
        "a scan of 3 frames is too short for the 3-D mask",
        config={"import_scan": {"last_frame": 2}},
    ),
    # Orientations from elsewhere, the grid, and the engine.
    _started(
        "start with another geometry",
        "stage/orientation/start.py:started",
        "raw/orientation.json has another geometry",
        _farther,
    ),
    _started(
        "start of another detector",
        "geometry/model_compare.py:on_geometry",
        "is for a detector of (13, 10) pixels (slow, fast), the scan has (12, 10)",
        _of_another_detector,
    ),
    _started(
        "start that is no orientation",
        "formats/models.py:read_model",
        "raw/orientation.json",
        lambda data: data.pop("UB"),
    ),
    Refused(
        "start of another lattice",
        "stage/orientation/start.py:reconciled",
        "refine_parent",
        PARENT,
        "which is not a lattice of P m -3 m",
        config={
            "orientation": {"start": "raw/orientation.json"},
            "refine_parent": {"space_group": "P m -3 m", "cell": [4.9, 4.9, 4.9, 90, 90, 90]},
        },
    ),
    Refused(
        "grid from right to left",
        "geometry/grid.py:Grid.within",
        "refine_parent",
        PARENT,
        "each range must go from low to high",
        config={"delta_pdf": [], "refine_parent": {"grid_range": [[2.2, 1.8], [0, 1], [0, 1]]}},
        alone=True,
    ),
    Refused(
        "settings that DIALS does not know",
        "stages/integrate.py:_refuse_unheard",
        "integrate",
        R1,
        "integrate: strong set, which engine dials does not know",
        config={"bragg": True, "integrate": {"engine": "dials", "strong": 33}},
        alone=True,
    ),
]
