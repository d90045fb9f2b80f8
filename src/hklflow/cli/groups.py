"""`hklflow groups make | show | statistics`: groups of pixels, such as chips, sectors and rings."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import App, Parameter

from hklflow.base.errors import HklflowError
from hklflow.cli.options import AsJson

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.calibration.detectors import KnownDetector
    from hklflow.geometry import Beam, Detector
    from hklflow.images.pixel_groups import PixelGroups

app = App(name="groups", help="Groups of pixels: modules, chips, quadrants, sectors, bands.")

By = Literal["module", "chip", "quadrant", "sector", "band", "image"]
_PARTITIONS = ("module", "chip", "quadrant", "sector")
_ONLY_FOR = {
    "chips": "chip",
    "centre": "quadrant",
    "sectors": "sector",
    "first": "sector",
    "q": "band",
    "two_theta": "band",
    "image": "image",
}


@Parameter(name="*")
@dataclass(frozen=True)
class Definition:
    """Options that define the groups."""

    chips: tuple[int, int] | None = None
    """Number of chips of a module along slow and fast; known for modules of PILATUS and EIGER."""
    centre: tuple[float, float] | None = None
    """Pixel coordinates (slow, fast) of the corner of the quadrants. Default: the middle of the
    detector."""
    sectors: int | None = None
    """Number of equal sectors in azimuth about the beam."""
    first: float | None = None
    """Azimuth (chi of pyFAI) of the first border of the sectors, degrees. Default: 0."""
    q: tuple[float, ...] = ()
    """Borders of the bands in |Q|, 1/Å."""
    two_theta: tuple[float, ...] = ()
    """Borders of the bands in the scattering angle, degrees."""
    image: str | None = None
    """Image of labels (.npy, TIFF, ..., or `file.h5:/path`): whole numbers, 0 is no group."""

    def require_only(self, by: str) -> None:
        """Refuse options of other groups."""
        for option, kind in _ONLY_FOR.items():
            if getattr(self, option) not in (None, ()) and kind != by:
                flag = option.replace("_", "-")
                raise HklflowError(f"--{flag} is for --by {kind}, not for --by {by}")


@Parameter(name="*")
@dataclass(frozen=True)
class Source:
    """Options for the detector of the groups."""

    geometry: Path | None = None
    """Geometry of the detector: `geometry.json` of the workflow or of a version of the store."""
    detector: str | None = None
    """Name of the detector in pyFAI, whose gaps divide it into modules."""
    mask: str | None = None
    """Mask (`mask.nxs` of the workflow, an image, or `file.h5:/path`). Modules are between its
    gaps, unless --detector is given; its good pixels must be in a group."""
    serial: str | None = None
    """Serial number of the detector, for the fingerprint."""


@app.command
def make(
    file: Path, /, *, by: By, definition: Definition = Definition(), source: Source = Source()
) -> None:
    """Make a file of groups of pixels, with the fingerprint of the detector.

    Modules, chips, quadrants and sectors are partitions: each good pixel is in exactly one group,
    and the command refuses a mask with good pixels in no group.

    Example: `hklflow groups make config/chips.nxs --by chip --detector "Pilatus 1M" --mask
    mask.nxs`; `hklflow groups make sectors.nxs --by sector --sectors 8 --geometry geometry.json`;
    `hklflow groups make rings.nxs --by band --q 1 2 4 8 --geometry geometry.json`; `hklflow groups
    make own.nxs --by image --image labels.npy`

    Parameters
    ----------
    file
        File to write (.nxs).
    by
        Rule that makes the groups.
    """
    from hklflow.images.pixel_groups import stamped
    from hklflow.nexus import write_groups

    if file.suffix != ".nxs":
        raise HklflowError(f"{file} is not the name of a NeXus file; end it in .nxs")
    if file.exists():
        raise HklflowError(f"{file} exists, and products may refer to it; choose another name")
    if not file.parent.is_dir():
        raise HklflowError(f"the folder of {file} does not exist; make it first")
    definition.require_only(by)
    known = _Known.read(source)
    groups = stamped(
        _groups(by, definition, known),
        known.detector,
        known.beam,
        model=None if known.model is None else known.model.name,
        serial=source.serial,
        geometry=known.version,
    )
    if known.bad is not None:
        if groups.labels.shape != known.bad.shape:
            groups.require(known.bad.shape)
        if by in _PARTITIONS:
            groups.require_partition(known.bad)
        elif outside := int(((groups.labels == 0) & ~known.bad).sum()):
            print(f"note: {outside} good pixels are in no group", file=sys.stderr)
    write_groups(file, groups)
    print(f"{len(groups.names)} groups by {by} of {int(groups.counts().sum())} pixels: {file}")


@app.command
def show(file: Path, /, *, mask: str | None = None, json_: AsJson = False) -> None:
    """List the groups of a file: number, name and pixels, and the detector they are for.

    Example: `hklflow groups show config/chips.nxs --mask mask.nxs`

    Parameters
    ----------
    file
        File of groups.
    mask
        Mask; then the good pixels of each group are listed, too.
    """
    from hklflow.nexus import read_groups

    groups = read_groups(_existing(file))
    bad = None if mask is None else _mask(mask)
    if bad is not None:
        groups.require(bad.shape)
    rows: list[dict[str, Any]] = [
        {"number": k, "group": name, "pixels": int(n)}
        for k, (name, n) in enumerate(zip(groups.names, groups.counts(), strict=True), start=1)
    ]
    if bad is not None:
        for row, n in zip(rows, groups.counts(bad), strict=True):
            row["good"] = int(n)
    if json_:
        about = {"rule": groups.rule, "fingerprint": groups.fingerprint, "groups": rows}
        print(json.dumps(about, indent=1))
        return
    print(f"# {json.dumps(groups.rule, sort_keys=True, ensure_ascii=False)}")
    made = {k: v for k, v in groups.fingerprint.items() if k != "pixels"}
    print(f"# {json.dumps(made, sort_keys=True)}")
    _print(rows)


@app.command
def statistics(
    file: Path, frames: str, /, *, mask: str | None = None, json_: AsJson = False
) -> None:
    """Print figures of each group: good pixels, counts, mean, spread, dispersion, silent pixels.

    `mean` is in counts per pixel and frame. `spread` is the standard deviation of the means of the
    pixels, `expected_spread` that of equal pixels that count photons. `dispersion` is the variance
    of a pixel over the frames relative to photon counting (median). `zeros` counts good pixels
    without counts.

    Example: `hklflow groups statistics config/chips.nxs raw/flood.h5`

    Parameters
    ----------
    file
        File of groups.
    frames
        Raw file or pattern of images.
    mask
        Mask; None: the mask in the raw file.
    """
    from hklflow.constants import counters
    from hklflow.images.group_response import statistics as of_groups
    from hklflow.nexus import read_groups

    groups = read_groups(_existing(file))
    run = counters.measure(frames, 8, trusted=True)
    bad = run.bits != 0
    if mask is not None:
        given = _mask(mask)
        groups.require(given.shape)
        groups.require(bad.shape)
        bad = bad | given
    groups.require(bad.shape, run.header.detector)
    rows = of_groups(run.moments, bad, groups)
    if json_:
        print(json.dumps(rows, indent=1))
    else:
        _print(rows)


@dataclass(frozen=True)
class _Known:
    """Facts about the detector of the groups; None: not given."""

    detector: "Detector | None"
    beam: "Beam | None"
    version: dict[str, Any] | None
    model: "KnownDetector | None"
    bad: "NDArray[np.bool_] | None"

    @classmethod
    def read(cls, source: Source) -> "_Known":
        """Read the files; refuse shapes that differ."""
        from hklflow.calibration.detectors import known_detector

        detector, beam, version = (
            (None,) * 3 if source.geometry is None else _geometry(source.geometry)
        )
        model = None if source.detector is None else known_detector(source.detector)
        bad = None if source.mask is None else _mask(source.mask)
        known = cls(detector, beam, version, model, bad)
        shapes = known.shapes()
        if len(set(shapes.values())) > 1:
            text = ", ".join(f"{what} {shape}" for what, shape in shapes.items())
            raise HklflowError(f"the shapes (slow, fast) differ: {text}; give the files of one "
                               "detector")  # fmt: skip
        return known

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shape that each source states."""
        found = {}
        if self.detector is not None:
            found["--geometry"] = self.detector.shape
        if self.model is not None:
            found["--detector"] = self.model.gaps.shape
        if self.bad is not None:
            found["--mask"] = self.bad.shape
        return {what: (int(a), int(b)) for what, (a, b) in found.items()}

    def shape(self) -> tuple[int, int]:
        """Return the shape of the detector."""
        shapes = list(self.shapes().values())
        if not shapes:
            raise HklflowError("the detector is not known; give --geometry, --detector or --mask")
        return shapes[0]

    def rectangles(self) -> "NDArray[np.int64]":
        """Return the rectangles of the modules."""
        import numpy as np

        from hklflow.calibration.modules import modules_from_gaps

        if self.detector is not None and self.detector.modules is not None:
            return self.detector.modules.rectangles
        if self.model is not None:
            return np.array(self.model.modules)
        if self.bad is not None:
            return modules_from_gaps(self.bad)
        raise HklflowError(
            "the modules are not known; give --detector (its name in pyFAI), --mask with the gaps, "
            "or a --geometry with modules"
        )

    def required(self) -> "tuple[Detector, Beam]":
        """Return the geometry."""
        if self.detector is None or self.beam is None:
            raise HklflowError(
                "sectors and bands need the beam's place on the detector; give --geometry (the "
                "geometry.json of the workflow or of a version)"
            )
        return self.detector, self.beam


def _groups(by: str, definition: Definition, known: _Known) -> "PixelGroups":
    from hklflow.formats.mask_images import read_numbers
    from hklflow.images import pixel_groups

    if by == "image":
        if definition.image is None:
            raise HklflowError("--by image needs --image, the image of labels")
        groups = pixel_groups.by_image(read_numbers(definition.image, "the label image"))
        if shapes := known.shapes():
            groups.require(next(iter(shapes.values())))
        return groups
    if by == "module":
        return pixel_groups.by_module(known.shape(), known.rectangles())
    if by == "chip":
        return pixel_groups.by_chip(known.shape(), known.rectangles(), definition.chips)
    if by == "quadrant":
        return pixel_groups.by_quadrant(known.shape(), definition.centre)
    detector, beam = known.required()
    if by == "sector":
        if definition.sectors is None:
            raise HklflowError("--by sector needs --sectors, their number")
        return pixel_groups.by_sector(detector, definition.sectors, definition.first or 0.0)
    if bool(definition.q) == bool(definition.two_theta):
        raise HklflowError("--by band needs the borders of the bands: give --q or --two-theta")
    edges = definition.q or definition.two_theta
    return pixel_groups.by_band(detector, beam if definition.q else None, edges)


def _geometry(path: Path) -> "tuple[Detector, Beam, dict[str, Any]]":
    from hklflow import stage
    from hklflow.formats.assemble import calibrated

    detector, beam = calibrated(stage.read_json(_existing(path)), path)
    folder = path.absolute().parent
    name = folder.name if folder.name.startswith("v_") else path.stem
    return detector, beam, {"version": name, "sha256": stage.fingerprint(path)}


def _mask(name: str) -> "NDArray[np.bool_]":
    """Return True for bad pixels, of a mask of the workflow or an image."""
    from hklflow.formats.mask_images import read_mask_image
    from hklflow.nexus import read_mask

    if name.endswith(".nxs"):
        return read_mask(_existing(Path(name))) != 0
    return read_mask_image(name)


def _existing(path: Path) -> Path:
    from hklflow.base.system import require_file

    require_file(path, "the file")
    return path


def _print(rows: list[dict[str, Any]]) -> None:
    print("\t".join(rows[0]))
    for row in rows:
        print("\t".join(_word(value) for value in row.values()))


def _word(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
