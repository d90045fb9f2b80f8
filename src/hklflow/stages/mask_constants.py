"""Judge the combined constants of one ASIC, and make the mask of its pixels."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from hklflow import stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 2

_RANGES = tuple(f"{q}_{s}" for q in ("offset", "noise", "gain") for s in ("high", "medium", "low"))


class Inputs(stage.Inputs):
    combined: Path
    """Combined constants."""
    user: Path | None = None
    """What the user knows to be bad, nonzero: an image of the module or the ASIC in any format
    that fabio reads, .png or .npy; or .npy (cell, ss, fs)."""


class Outputs(stage.Outputs):
    constants: Path
    """The constants with their whole status, and the pixel mask."""


class Settings(stage.Params):
    """What the configuration file sets."""

    n_sigma: float = Field(5.0, gt=0)
    """Robust standard deviations from the median of stage and ASIC beyond which offset, noise or
    gain is an outlier."""
    default_ranges: bool = True
    """Whether the detector's own ranges hold where none is given: for AGIPD `offset_high` 2000 to
    9000 ADU, `noise_high` 2 to 40 ADU, `gain_high` 2.5 to 25 ADU/keV; for JUNGFRAU `offset_high`
    500 to 8000 ADU, `noise_high` 2 to 60 ADU, `gain_high` 20 to 150 ADU/keV; else there are no
    ranges."""
    offset_high: tuple[float, float] | None = None
    """Smallest and largest offset of stage high in ADU; None: see `default_ranges`."""
    offset_medium: tuple[float, float] | None = None
    """Smallest and largest offset of stage medium in ADU; None: see `default_ranges`."""
    offset_low: tuple[float, float] | None = None
    """Smallest and largest offset of stage low in ADU; None: see `default_ranges`."""
    noise_high: tuple[float, float] | None = None
    """Smallest and largest noise of stage high in ADU; None: see `default_ranges`."""
    noise_medium: tuple[float, float] | None = None
    """Smallest and largest noise of stage medium in ADU; None: see `default_ranges`."""
    noise_low: tuple[float, float] | None = None
    """Smallest and largest noise of stage low in ADU; None: see `default_ranges`."""
    gain_high: tuple[float, float] | None = None
    """Smallest and largest gain of stage high in ADU/keV; None: see `default_ranges`."""
    gain_medium: tuple[float, float] | None = None
    """Smallest and largest gain of stage medium in ADU/keV; None: see `default_ranges`."""
    gain_low: tuple[float, float] | None = None
    """Smallest and largest gain of stage low in ADU/keV; None: see `default_ranges`."""
    edges: int = Field(0, ge=0)
    """Pixels along the border of each ASIC that are masked."""
    max_bad_cells: float = Field(0.5, ge=0, le=1)
    """Fraction of memory cells above which what is bad in a cell is bad in the pixel; what is bad
    in all cells always is."""
    stages: tuple[Literal["high", "medium", "low"], ...] = Field(
        ("high", "medium", "low"), min_length=1
    )
    """Stages of gain that a pixel needs; one of unknown gain or without a dark does not count.
    Where none is left all pixels are masked."""

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name in _RANGES:
            limits = getattr(self, name)
            if limits is not None and not limits[0] < limits[1]:
                raise ValueError(
                    f"{name} {list(limits)} is no range; give the smallest value, then the largest"
                )
        return self


class Params(Settings):
    """Settings, and the size of modules."""

    module_size: tuple[int, int] | None = Field(None)
    """Pixels of a module (ss, fs); None: as the detector has it."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Judge, mask, tell how much."""
    from hklflow.constants import files, masking
    from hklflow.constants.detectors import STAGES, integrating
    from hklflow.constants.status import bad

    constants = files.read_part(inputs.combined)
    about = constants.about
    size = constants["offset"].shape[-2:]
    user = None
    if inputs.user is not None:
        detector = integrating(about["detector"], params.module_size, size)
        user = masking.cut_out(_read(inputs.user), detector.module, detector.box(about["asic"]))
    ranges = dict(masking.RANGES.get(about["detector"], {})) if params.default_ranges else {}
    given = {name: getattr(params, name) for name in masking.range_names()}
    found = masking.mask_constants(
        constants,
        n_sigma=params.n_sigma,
        ranges=ranges | {name: one for name, one in given.items() if one is not None},
        user=user,
        edges=params.edges,
        max_bad_cells=params.max_bad_cells,
        stages=params.stages,
    )
    files.write_part(outputs.constants, "constants", found)
    mask = found["pixel_mask"]
    print(f"{(mask != 0).sum()} of {mask.size} pixels are masked")
    for name, status in zip(STAGES, found["constants_status"], strict=True):
        print(f"{name}: {bad(status).sum()} of {status.size} pixels and cells are bad")


def _read(path: Path) -> "NDArray[np.bool_]":
    """Mask (ss, fs) or (cell, ss, fs), True = bad."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.formats.mask_images import read_mask_image

    if path.suffix != ".npy":
        return read_mask_image(str(path))
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise HklflowError(f"{path} is no array of numbers ({error}); save it again") from error
    return np.asarray((values != 0) | (values != values))


if __name__ == "__main__":
    stage.command(main)
