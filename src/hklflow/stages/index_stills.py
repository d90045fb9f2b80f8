"""Index and integrate one batch of still frames with DIALS and a known cell.

Each frame has a crystal of unknown orientation. A batch that fails (frames that cannot be read, no
frame indexed) is written down with its reason and has no frames, so that the other batches are
merged. Without DIALS, the stage fails.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.dials.stills import Indexed
    from hklflow.geometry import Beam, Detector
    from hklflow.stage.rehearsal import FrameFacts, Known

VERSION = 1


class Inputs(stage.Inputs):
    raw: list[Path]
    """Raw HDF5 file, or first and last image of a series."""
    geometry: Path | None = None
    """Calibrated geometry; None: the raw file must contain a detector geometry."""


class Outputs(stage.Outputs):
    indexed: Path
    """Orientation, spots and integrated reflections of each indexed frame."""
    metrics: Path
    """Number of frames, and why frames are missing."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    wavelength: float | None = Field(None, gt=0)
    """Wavelength in Å; None: the value of the calibration, else of the raw file."""
    polarization: float | None = Field(None, ge=0, le=1)
    """Fraction of the intensity with the electric vector horizontal; None: the value of the
    calibration, else of the raw file."""
    saturation: float | None = Field(None, gt=0)
    """Counts from which a pixel is saturated; None: the value in the raw file."""
    mask_image: Path | None = None
    """Mask image: nonzero is bad. Bad pixels of the raw file and negative values are always bad."""
    d_min: float | None = Field(None, gt=0)
    """Smallest d-spacing of spots for indexing, in Å; None: all spots."""
    min_pixels: int = Field(2, ge=1)
    """Smallest number of pixels of a spot."""
    min_spots: int = Field(12, ge=6)
    """Smallest number of spots of a frame on the lattice of its crystal."""
    min_indexed: float = Field(0.7, ge=0, le=1)
    """Smallest fraction of the spots of a frame on the lattice of its crystal. A frame with the
    spots of two crystals has less."""
    max_rmsd: float = Field(2.0, gt=0)
    """Largest root mean square distance of spots from their predictions, in pixels."""
    max_cell_change: float = Field(0.03, gt=0, le=0.5)
    """Largest relative deviation of a cell length of a frame from the known cell. DIALS refines the
    cell of each frame."""


class Params(Settings):
    """Settings of the stage, frames, crystal and the folder of DIALS."""

    pattern: str | None = None
    """Pattern of an image series (`name_####.cbf`); None: one HDF5 file."""
    cell: tuple[float, float, float, float, float, float] = Field()
    """Known cell: a, b, c in Å, α, β, γ in degrees."""
    space_group: str = Field()
    """Space group with its setting."""
    batch: int = Field(0, ge=0)
    """Number of this batch, from 0."""
    batches: int = Field(1, ge=1)
    """Number of batches into which the frames are divided."""
    prefix: Path | None = None
    """Folder of the programs `dials.*`. None: the programs are on PATH."""

    def paths(self, base: Path = Path()) -> dict[str, list[Path]]:
        """Return the paths of all parameters except `prefix`, because programs are not data."""
        paths = super().paths(base)
        del paths["prefix"]
        return paths


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Copy the frames of the batch for DIALS, index them and write the result."""
    from collections import Counter
    from dataclasses import replace

    from hklflow.base.errors import HklflowError
    from hklflow.dials.programs import find
    from hklflow.nexus.stills import write_stills

    dials = find(params.prefix)
    source = params.pattern or str(inputs.raw[0])
    setup = _setup(source, inputs.geometry, params)
    failure = None
    try:
        # Frames that cannot be read are those of this batch only.
        setup = _with_gaps(setup, source)
        found = _indexed(dials, source, setup, params)
    except HklflowError as error:
        failure = f"batch {params.batch}: {error}"
        found = _none(setup, params, str(error))
    stills = replace(found.stills, bad=setup.bad)
    title = f"still frames {setup.first} to {setup.last - 1} of {source}"
    write_stills(outputs.indexed, stills, found.rejected, title)
    n = setup.last - setup.first
    accepted = len(stills.frames)
    metrics = {
        "program": dials.label,
        "first frame": setup.first,
        "frames": n,
        "indexed": accepted,
        "share indexed": accepted / n if n else None,
        "why not": dict(Counter(found.rejected.values())),
        "indexed spots of a frame": float(stills.frames.indexed.mean()) if accepted else None,
        "rmsd in pixels": float(stills.frames.rmsd.mean()) if accepted else None,
        "integrated reflections": len(stills.reflections),
        "failures": [] if failure is None else [failure],
    }
    stage.write_json(outputs.metrics, metrics)
    print(failure or f"{accepted} of {n} frames indexed ({dials.label})")


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Check header, geometry and mask image; a geometry that is not calibrated yet is left out."""
    frames = known.frames(inputs.raw[0], params.pattern)
    if frames is None:
        return
    source = params.pattern or str(inputs.raw[0])
    _batch(source, frames.shape[0], params)
    _mask_image(frames.shape[1:], params)
    if inputs.geometry is None or known.of(inputs.geometry, stage.read_json) is not None:
        _facts(source, frames, inputs.geometry, params)


class _Setup(NamedTuple):
    """Geometry, bad pixels and frames of a batch."""

    detector: "Detector"
    beam: "Beam"
    bad: "NDArray[np.bool_]"
    saturation: float
    first: int
    last: int


def _setup(source: str, geometry: Path | None, params: Params) -> _Setup:
    """Collect what the frames need, without reading them."""
    import numpy as np

    from hklflow.formats import raw
    from hklflow.images.masks import flag_value
    from hklflow.stage.rehearsal import read_facts

    frames = read_facts(source)
    first, last = _batch(source, frames.shape[0], params)
    detector, beam = _facts(source, frames, geometry, params)
    header = frames.header
    bad = np.zeros(frames.shape[1:], dtype=np.bool_)
    bad |= header.pixel_mask if header.pixel_mask is not None else False
    bits = raw.read_mask_bits(source)
    bad |= (bits != 0) if bits is not None else False
    image = _mask_image(frames.shape[1:], params)
    bad |= image if image is not None else False
    limits = [params.saturation or header.saturation, flag_value(frames.dtype), 2**31 - 1]
    saturation = float(min(value for value in limits if value))
    return _Setup(detector, beam, bad, saturation, first, last)


def _with_gaps(setup: _Setup, source: str) -> _Setup:
    """Return the setup with the gaps between modules, which have a flag in every frame."""
    import numpy as np

    from hklflow.formats import raw
    from hklflow.images.masks import flag_value

    with raw.open_frames(source) as opened:
        ends = [opened.read(i, i + 1)[0] for i in (setup.first, setup.last - 1)]
    flag = flag_value(ends[0].dtype)
    gaps = np.asarray((ends[0] < 0) & (ends[1] < 0))
    gaps |= False if flag is None else (ends[0] == flag) & (ends[1] == flag)
    return setup._replace(bad=setup.bad | gaps)


def _batch(source: str, n: int, params: Params) -> tuple[int, int]:
    """Return the first and the last + 1 frame of the batch.

    Raises
    ------
    HklflowError
        If there are more batches than frames.
    """
    from hklflow.base.errors import HklflowError

    if params.batches > n:
        raise HklflowError(
            f"{params.batches} batches cannot be made of the {n} frames of {source}; set fewer "
            "`batches`"
        )
    first, last = (n * i // params.batches for i in (params.batch, params.batch + 1))
    return first, last


def _mask_image(shape: tuple[int, ...], params: Params) -> "NDArray[np.bool_] | None":
    """Return the mask image, True for bad pixels.

    Raises
    ------
    HklflowError
        If it has another shape than the frames.
    """
    from hklflow.base.errors import HklflowError
    from hklflow.formats.mask_images import read_mask_image

    if params.mask_image is None:
        return None
    image = read_mask_image(str(params.mask_image))
    if image.shape != tuple(shape):
        raise HklflowError(
            f"mask_image: {params.mask_image} has {image.shape} pixels, but the frames have "
            f"{tuple(shape)}; use a mask of this detector"
        )
    return image


def _facts(
    source: str, frames: "FrameFacts", geometry: Path | None, params: Params
) -> "tuple[Detector, Beam]":
    """Return detector and beam.

    Raises
    ------
    HklflowError
        If a fact is missing, the detector integrates, or the geometry is of another detector.
    """
    from hklflow.base.errors import HklflowError
    from hklflow.formats import assemble
    from hklflow.geometry import Beam

    header, shape = frames.header, frames.shape[1:]
    if header.integrates or frames.dtype.kind == "f":
        raise HklflowError(
            f"the frames {source} are from an integrating detector (values {frames.dtype}), and "
            "DIALS takes them for counts of photons; give frames of a photon counter"
        )
    detector, wavelength, polarization = header.detector, header.wavelength, header.polarization
    if geometry is not None:
        detector, beam = assemble.calibrated(stage.read_json(geometry), geometry)
        wavelength, polarization = beam.wavelength, beam.polarization
    wavelength = params.wavelength or wavelength
    polarization = polarization if params.polarization is None else params.polarization
    where = source if geometry is None else str(geometry)
    if detector is None:
        raise HklflowError(f"{where} has no detector geometry; give a `calibration`")
    if wavelength is None:
        raise HklflowError(f"{where} has no wavelength; set `index_stills: wavelength` in Å")
    if polarization is None:
        raise HklflowError(f"{where} has no polarization; set `index_stills: polarization`")
    if tuple(detector.shape) != shape:
        raise HklflowError(
            f"the frames of {source} have {shape} pixels, but the geometry {where} is for "
            f"{tuple(detector.shape)}; use the calibration of this detector"
        )
    return detector, Beam(wavelength, polarization)


def _indexed(dials: "object", source: str, setup: _Setup, params: Params) -> "Indexed":
    """Run DIALS on the frames of the batch; frame numbers are those of the raw file."""
    from dataclasses import replace

    from hklflow.dials import stills as engine
    from hklflow.dials.programs import Dials, workspace
    from hklflow.formats import raw

    assert isinstance(dials, Dials)
    names = ("d_min", "min_pixels", "min_spots", "min_indexed", "max_rmsd", "max_cell_change")
    limits = engine.Limits(**{name: getattr(params, name) for name in names})
    n = setup.last - setup.first
    with workspace("stills") as folder, raw.open_frames(source) as frames:
        blocks = stage.progress(
            frames.blocks(1, setup.first, setup.last), n, "frames copied for DIALS"
        )
        engine.write_frames(
            folder / engine.FRAMES,
            setup.detector,
            setup.beam,
            setup.bad,
            blocks,
            n,
            setup.saturation,
        )
        found = engine.index(
            dials,
            folder,
            setup.detector,
            setup.beam,
            params.cell,
            params.space_group,
            n,
            limits,
        )
    frames_of = found.stills.frames
    moved = replace(frames_of, number=frames_of.number + setup.first)
    rejected = {number + setup.first: reason for number, reason in found.rejected.items()}
    return engine.Indexed(replace(found.stills, frames=moved), rejected)


def _none(setup: _Setup, params: Params, reason: str) -> "Indexed":
    """Return a batch without frames."""
    from hklflow.bragg.stills import no_stills
    from hklflow.dials.stills import Indexed

    rejected = dict.fromkeys(range(setup.first, setup.last), reason.splitlines()[0][:200])
    return Indexed(no_stills(setup.detector, setup.beam, params.cell, params.space_group), rejected)


if __name__ == "__main__":
    stage.command(main)
