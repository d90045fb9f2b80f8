"""What the state of an entry says about the geometry of a candidate, and whether it fits."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow.base.errors import HklflowError
from hklflow.base.values import HC

if TYPE_CHECKING:
    from hklflow.cli.calibration.target import Target
    from hklflow.images.pixel_binning import PixelBinning


def binning_of_state(target: "Target") -> "PixelBinning | None":
    """Return the binning of the frames of a state; None: frames as measured.

    Raises
    ------
    HklflowError
        If hklflow does not bin so, or the state has no shape.
    """
    from hklflow.images.pixel_binning import PixelBinning

    factor, shape = target.state.values.get("binning", 1), target.state.values.get("shape")
    if factor == 1:
        return None
    if shape is None:
        raise HklflowError(
            f"the state of {target.name} has `binning: {factor}` and no shape; add the shape of "
            "the frames as measured"
        )
    return PixelBinning(factor, (shape[0], shape[1]))


def check_state(target: "Target", data: dict[str, Any], path: Path) -> None:
    """Raise an error if a geometry does not fit the state.

    Raises
    ------
    HklflowError
        If binning, shape, pixel size, polarisation or energy differ. The energy may differ
        by a step of the state, or by 0.1 % if the wavelength was refined.
    """
    from hklflow.formats.assemble import calibrated, calibrated_binning

    detector, beam = calibrated(data, path, any_binning=True)
    values, problems = target.state.values, []
    made, binning = calibrated_binning(data, path), binning_of_state(target)
    factor = 1 if binning is None else binning.factor
    shape, size = values.get("shape"), values.get("pixel_size")
    if made != binning:
        is_, should = (x.words if x else "frames as measured" for x in (made, binning))
        problems.append(f"the pixels of {is_}, not of {should}")
    elif shape is not None and detector.shape != (
        all_ := binning.shape if binning else tuple(shape)
    ):
        problems.append(f"a detector of {detector.shape} pixels, not {all_}")
    elif size is not None and any(
        abs(a / (factor * b) - 1) > 1e-6 for a, b in zip(detector.pixel_size, size, strict=True)
    ):
        problems.append(f"pixels of {detector.pixel_size} m, not {tuple(factor * b for b in size)}")
    if (energy := values.get("energy")) is not None:
        energy_of_beam, step = HC / beam.wavelength, target.schema.keys["energy"].step or 0.0
        # A refined wavelength is judged by a separate gate.
        refined = "wavelength" in data.get("sigma", {})
        if abs(energy_of_beam - energy) > (1e-3 * energy if refined else step):
            problems.append(f"an energy of {energy_of_beam:.1f} eV, not {energy:.1f} eV")
    if abs(beam.polarization - target.geometry.polarization) > 1e-9:
        problems.append(
            f"a polarisation of {beam.polarization}, not {target.geometry.polarization}"
        )
    if problems:
        raise HklflowError(
            f"the geometry has {' and '.join(problems)}, as {target.name} says; give the file of "
            "this state, or correct the configuration"
        )
