"""Import a detector geometry from a PONI file of pyFAI."""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 2


class Inputs(stage.Inputs):
    poni: Path
    """PONI file, version 1 or 2."""


class Outputs(stage.Outputs):
    geometry: Path
    """Geometry in the lab frame."""


class Params(stage.Params):
    shape: tuple[int, int] | None = None
    """Number of pixels (slow, fast); None: the value in the PONI file."""
    orientation: int | None = Field(None, ge=1, le=4)
    """Orientation of the image (pyFAI's detector orientation); None: the value in the PONI file."""
    wavelength: float | None = Field(None, gt=0)
    """Wavelength in Å; None: the value in the PONI file."""
    polarization: float = Field(ge=0, le=1)
    """Fraction of the intensity with the electric vector horizontal (0.5: unpolarised)."""
    sensor_thickness: float | None = Field(None, gt=0)
    """Thickness of the sensor in m; None: the value in the PONI file, else in the raw file of the
    scan.
    """
    sensor_attenuation: float | None = Field(None, gt=0)
    """Attenuation coefficient of the sensor in 1/m; None: calculated from the sensor material and
    the wavelength of the scan.
    """


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Convert the PONI file to hklflow's geometry."""
    from dataclasses import asdict, replace

    from hklflow.base.errors import HklflowError
    from hklflow.formats import poni
    from hklflow.geometry import detector_to_dict, plausible

    parameters = poni.read_poni(inputs.poni)
    material, thickness = poni.read_sensor(inputs.poni)
    settings = {
        name: getattr(params, name)
        for name in ("shape", "orientation", "wavelength")
        if getattr(params, name) is not None
    }
    parameters = replace(parameters, **settings)
    if parameters.wavelength is None:
        raise HklflowError(f"{inputs.poni} has no Wavelength; set `wavelength` in Å")
    if parameters.shape is None:
        raise HklflowError(f"{inputs.poni} has no detector shape; set `shape` (slow, fast)")
    detector = replace(
        parameters.detector(),
        sensor_thickness=params.sensor_thickness or thickness,
        sensor_attenuation=params.sensor_attenuation,
    )
    for problem in (
        plausible.wavelength_problem(parameters.wavelength),
        plausible.detector_problem(detector),
    ):
        if problem is not None:
            raise HklflowError(f"{inputs.poni}: {problem}")
    stage.write_json(
        outputs.geometry,
        {
            "source": f"poni:{inputs.poni}",
            "detector": detector_to_dict(detector),
            "beam": {
                "wavelength_A": parameters.wavelength,
                "polarization": params.polarization,
            },
            "poni": asdict(parameters),
            **({} if material is None else {"sensor_material": material}),
        },
    )
    print(f"imported {inputs.poni}: distance {1e3 * detector.distance:.4f} mm")


if __name__ == "__main__":
    stage.command(main)
