"""Test the combined constants of one ASIC, and create its pixel mask."""

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
    """Bad pixels marked by the user, nonzero: an image of the module or the ASIC in any format that
    fabio reads, .png or .npy; or .npy (cell, ss, fs)."""


class Outputs(stage.Outputs):
    constants: Path
    """Constants with their complete status, and the pixel mask."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    n_sigma: float = Field(5.0, gt=0)
    """Limit of offset, noise and gain: distance from the median of the stage and ASIC, in robust
    standard deviations. Values beyond it are outliers.
    """
    default_ranges: bool = True
    """Use the default ranges of the detector for ranges that are not set. AGIPD: `offset_high` 2000
    to 9000 ADU, `noise_high` 2 to 40 ADU, `gain_high` 2.5 to 25 ADU/keV. JUNGFRAU: `offset_high`
    500 to 8000 ADU, `noise_high` 2 to 60 ADU, `gain_high` 20 to 150 ADU/keV. False: no default
    ranges.
    """
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
    """Width in pixels of the masked border of each ASIC."""
    max_bad_cells: float = Field(0.5, ge=0, le=1)
    """Largest fraction of bad memory cells in a good pixel. A pixel that is bad in all cells is
    always masked.
    """
    stages: tuple[Literal["high", "medium", "low"], ...] = Field(
        ("high", "medium", "low"), min_length=1
    )
    """Gain stages that a pixel needs. Stages with unknown gain or without a dark are ignored; if no
    stage remains, all pixels are masked.
    """

    @model_validator(mode="after")
    def _ranges_ascend(self) -> Self:
        for name in _RANGES:
            limits = getattr(self, name)
            if limits is not None and not limits[0] < limits[1]:
                raise ValueError(
                    f"{name} {list(limits)} is not a range; enter the smaller value first"
                )
        return self


class Params(Settings):
    """Settings of the stage, and the size of modules."""

    module_size: tuple[int, int] | None = Field(None)
    """Pixels (ss, fs) of a module; None: the detector's default."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Test the constants, create the mask, report the numbers."""
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
    limits = {name: getattr(params, name) for name in masking.range_names()}
    masked = masking.mask_constants(
        constants,
        n_sigma=params.n_sigma,
        ranges=ranges | {name: one for name, one in limits.items() if one is not None},
        user=user,
        edges=params.edges,
        max_bad_cells=params.max_bad_cells,
        stages=params.stages,
    )
    files.write_part(outputs.constants, "constants", masked)
    mask = masked["pixel_mask"]
    print(f"{(mask != 0).sum()} of {mask.size} pixels are masked")
    for name, status in zip(STAGES, masked["constants_status"], strict=True):
        print(f"{name}: {bad(status).sum()} of {status.size} pixels and cells are bad")


def _read(path: Path) -> "NDArray[np.bool_]":
    """Read a mask (ss, fs) or (cell, ss, fs), True = bad."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.formats.mask_images import read_mask_image

    if path.suffix != ".npy":
        return read_mask_image(str(path))
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise HklflowError(f"{path} is not a numeric array ({error}); save it again") from error
    return np.asarray((values != 0) | (values != values))


if __name__ == "__main__":
    stage.command(main)
