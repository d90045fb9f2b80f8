"""Correct the raw frames of an integrating detector to photons; the output is like a raw file.

Offset, gain stage, gain, common mode, flat field and mask are applied, see
`hklflow.constants.correct`. The file has 32-bit floats in photons. Values can be negative, because
the read noise has the mean 0; NaN means that the pixel was not measured. The file also has the
facts that later stages need: the variance of the read noise of gain stage high, the smallest valid
value and the saturation. (Pixels in another gain stage have a larger variance; the metrics give the
excess as a fraction of the photons' variance.) For compression, photons are rounded to a power of
two below a quarter of the read noise. The stored read noise includes this rounding, at most half a
per cent.

The constants of the used memory cells are kept in memory: 36 bytes per pixel and cell, 44 if the
gain stage is coded as a level (AGIPD). While a module is opened, the constants of all its cells
take another 48 or 56 bytes per pixel and cell. A block of frames takes 5 bytes per pixel and frame.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.constants.correct import Correction
    from hklflow.constants.detectors import Integrating
    from hklflow.constants.rotation_frames import RotationFrames
    from hklflow.formats.header import Header
    from hklflow.stage.rehearsal import Known

VERSION = 4
KERNELS = "constants"


class Inputs(stage.Inputs):
    raw: list[Path]
    """Raw HDF5 file, first and last image of a series, or the files of a run (`layout`)."""
    constants: Path
    """Constants of the detector."""


class Outputs(stage.Outputs):
    frames: Path
    """Corrected frames as NXmx (`.nxs`), which are imported like any raw file."""
    picture: Path
    """Picture: mean of the corrected frames, and the mask."""
    metrics: Path
    """Fractions of pixels in each gain stage, saturated pixels and pixels without a value; common
    mode.
    """


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    common_mode: Literal["none", "module", "asic", "row"] = "none"
    """Group of pixels with a common shift on each frame, which is subtracted: a module, an ASIC, or
    each row of an ASIC.
    """
    dark_pixels: float = Field(0.2, gt=0, le=1)
    """Smallest fraction of pixels without photons that is needed to determine a common mode."""
    flat_field: bool = True
    """Apply the flat field of the constants, if it exists."""
    asic_size: tuple[int, int] | None = None
    """Pixels (slow, fast) of an ASIC; None: the detector's default."""
    block: int = Field(16, gt=0, le=512)
    """Number of frames in memory at a time."""


class Params(Settings):
    """Settings of the stage, and the rotation."""

    energy: float = Field(gt=0)
    """Photon energy in keV."""
    pattern: str | None = None
    """Pattern of an image series (`name_####.cbf`); None: HDF5 files."""
    layout: str | None = None
    """Layout of the files of a run (euxfel, lab, jungfrau); None: one raw file with the gain in the
    two top bits and the modules stacked along slow."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Open constants and frames, correct the frames block by block, and write them."""
    import numpy as np

    from hklflow import plots
    from hklflow.base.values import HC
    from hklflow.constants.correct import Tally
    from hklflow.constants.correct_kernels import NO_STAGE
    from hklflow.formats.write_raw import NXmxWriter, described

    detector, modules, known = _described(inputs.constants, params)
    n_slow, n_fast = detector.module
    shape = (len(modules) * n_slow, n_fast)
    with _open(inputs, params, detector, modules, known) as frames:
        cells = {cell: place for place, cell in enumerate(frames.cells)}
        corrections = _corrections(inputs.constants, params, detector, frames.cells)
        _require_energy(params.energy, frames.header, inputs.raw[0])
        mask = np.concatenate([one.mask for one in corrections])
        if frames.header.pixel_mask is not None:
            mask[frames.header.pixel_mask & (mask == 0)] = 1
        noise = [one.mean_read_variance(cells.values()) for one in corrections]
        read = np.concatenate(noise, axis=1)
        good = mask == 0
        step = _step(read[0][good], inputs.constants)
        saturation = min(one.saturation for one in corrections)
        tally = Tally(~good, read)
        header = replace(
            described(frames.header, shape, frames.n),
            wavelength=HC / (1000 * params.energy),
            pixel_mask=mask,
            saturation=saturation,
            underload=float(np.finfo(np.float32).min),
            read_variance=np.where(good, read[0] + step**2 / 12, 0.0).astype(np.float32),
            dtype=np.float32,
        )
        with NXmxWriter(outputs.frames, header) as writer:
            starts = range(0, frames.n, params.block)
            for start in stage.progress(starts, len(starts), "blocks of corrected frames"):
                n = min(params.block, frames.n - start)
                block = np.full((n, *shape), np.nan, np.float32)
                stages = np.full((n, *shape), NO_STAGE, np.uint8)
                for part in frames.read(start, start + n):
                    correct = corrections[part.module].correct
                    corrected = correct(
                        part.analog, part.digital, cells[part.cell], step, saturation
                    )
                    target = part.at, slice(part.module * n_slow, (part.module + 1) * n_slow)
                    block[target], stages[target] = corrected.photons, corrected.stage
                    tally.add_shift(corrected.shift)
                block[:, ~good] = np.nan
                tally.add(block, stages, saturation)
                writer.append(block)
    metrics = tally.metrics() | {"step in photons": step, "saturation in photons": saturation}
    stage.write_json(outputs.metrics, metrics)
    title = f"corrected frames of {params.pattern or inputs.raw[0]}: mean"
    picture = plots.detector_image(tally.mean, title, "photons per frame", ~good)
    plots.save(picture, outputs.picture)
    fractions = ", ".join(f"{name} {value:.3g}" for name, value in metrics["fractions"].items())
    print(f"{frames.n} frames of {len(corrections)} modules corrected; {fractions}")


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Compare the frames with constants that exist already."""
    from hklflow.base.values import HC
    from hklflow.stage.rehearsal import FrameFacts

    if {inputs.constants, *inputs.raw} & set(known.products):
        return
    import numpy as np

    detector, modules, cells = _described(inputs.constants, params)
    with _open(inputs, params, detector, modules, cells) as frames:
        _require_energy(params.energy, frames.header, inputs.raw[0])
        header = replace(
            frames.header,
            wavelength=HC / (1000 * params.energy),
            underload=float(np.finfo(np.float32).min),
        )
        shape = (frames.n, len(modules) * detector.module[0], detector.module[1])
        known.products[outputs.frames] = FrameFacts(shape, np.dtype(np.float32), header)


def _described(path: Path, params: Params) -> "tuple[Integrating, list[int], list[int]]":
    """Return the detector, its modules in image order, and the memory cells of the constants."""
    from hklflow.base.errors import HklflowError
    from hklflow.constants.detectors import integrating
    from hklflow.constants.files import about_of, open_constants

    with open_constants(path) as constants:
        groups = [constants.group(number) for number in constants.modules]
        abouts = [about_of(group) for group in groups]
        size = groups[0]["offset"].shape[-2:]
        modules = list(constants.modules)
    _require_orientation(path, abouts)
    cells = {tuple(int(cell) for cell in about["cell_ids"]) for about in abouts}
    if len(cells) > 1:
        raise HklflowError(
            f"{path} has modules with constants of different memory cells; use constants of one "
            "mode"
        )
    detector = integrating(str(abouts[0]["detector"]), size, params.asic_size)
    return detector, modules, list(cells.pop())


def _require_orientation(path: Path, abouts: "list[dict[str, Any]]") -> None:
    from hklflow.base.errors import HklflowError

    for about in abouts:
        lowest, highest = about.get("as_modules") or (0, about["module"])
        if not (about.get("absent") or lowest <= about["module"] <= highest):
            raise HklflowError(
                f"{path}: constants of module {about['module']} were measured on a test bench, in "
                f"the orientation of modules {lowest} to {highest}, which is another one in the "
                "detector; measure this module in the detector, or leave it out"
            )


def _open(
    inputs: Inputs, params: Params, detector: "Integrating", modules: list[int], cells: list[int]
) -> "RotationFrames":
    from hklflow.constants.rotation_frames import Run, Stacked

    if params.layout is not None:
        return Run(inputs.raw, params.layout, detector, modules)
    return Stacked(params.pattern or str(inputs.raw[0]), detector, len(modules), cells)


def _corrections(
    path: Path, params: Params, detector: "Integrating", cells: tuple[int, ...]
) -> "list[Correction]":
    """Create the correction of each module, in the order of the image."""
    from hklflow.constants.correct import QUANTITIES, Correction
    from hklflow.constants.files import open_constants

    with open_constants(path) as constants:
        return [
            Correction(
                constants.module(number, QUANTITIES),
                detector,
                params.energy,
                shared=params.common_mode,
                least=params.dark_pixels,
                flat=params.flat_field,
                cells=cells,
            )
            for number in constants.modules
        ]


def _step(variance: "NDArray[np.float64]", path: Path) -> float:
    """Return the power of two that is at most a quarter of the read noise of most pixels."""
    import numpy as np

    from hklflow.base.errors import HklflowError

    if not variance.size:
        raise HklflowError(f"every pixel is masked in {path}; check the report of the constants")
    noise = float(np.sqrt(np.quantile(variance, 0.1)))
    return float(2.0 ** np.floor(np.log2(noise / 4)))


def _require_energy(energy: float, header: "Header", path: Path) -> None:
    from hklflow.base.errors import HklflowError
    from hklflow.base.values import HC

    if header.wavelength is None:
        return
    stated = HC / header.wavelength / 1000
    if abs(stated / energy - 1) > 0.02:
        raise HklflowError(
            f"{path} states a wavelength of {header.wavelength:g} Å, {stated:.4g} keV, but "
            f"`energy` is {energy:g} keV; correct the wrong one"
        )


if __name__ == "__main__":
    stage.command(main)
