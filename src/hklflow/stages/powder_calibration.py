"""Refine the detector's geometry from the rings of a powder calibrant, with pyFAI."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.core.geometry import Detector, Floats

VERSION = 1


class Inputs(stage.Inputs):
    image: Path
    """Calibrant image: TIFF, CBF, EDF or .npy."""


class Outputs(stage.Outputs):
    geometry: Path
    """Refined geometry with its uncertainties."""
    poni: Path
    """The same as a PONI file for pyFAI."""
    picture: Path
    """Picture: rings on the image, profile, residuals."""


class Params(stage.Params):
    calibrant: str = "CeO2"
    """Calibrant, by pyFAI's name."""
    wavelength: float = Field(gt=0)
    """Wavelength in Å."""
    pixel_size: tuple[float, float] = Field()
    """Pixel size (slow, fast) in m."""
    distance: float | None = Field(None, gt=0)
    """Approximate distance in m; None: found from the rings."""
    beam_centre: tuple[float, float] | None = None
    """Approximate beam centre (slow, fast) in pixels; None: found from the rings' symmetry."""
    orientation: int = Field(2, ge=1, le=4)
    """How the image lies (pyFAI's detector orientation): 2 is an image seen from the sample with
    its first row at the top."""
    polarization: float = Field(ge=0, le=1)
    """Fraction of the intensity with the electric vector horizontal (0.5: unpolarised)."""
    sensor_thickness: float | None = Field(None, gt=0)
    """Thickness of the sensor in m; None: no correction for its efficiency."""
    sensor_attenuation: float | None = Field(None, gt=0)
    """Attenuation coefficient of the sensor in 1/m."""
    min_rings: int = Field(3, ge=2)
    """Least number of rings."""
    mask_image: Path | None = None
    """Mask image: nonzero is bad. Negative pixels are always bad."""
    max_rms: float = Field(0.02, gt=0)
    """Largest rms of observed minus calculated 2θ in degrees that is accepted."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Refine, judge, write."""
    from dataclasses import asdict, replace

    import numpy as np

    from hklflow import plots
    from hklflow.calibration import powder
    from hklflow.core import defects, geometry, masks
    from hklflow.errors import HklflowError
    from hklflow.formats import images, poni

    image = images.read_image(inputs.image)
    bad = masks.flagged(image, masks.flag_value(image.dtype))
    if params.mask_image is not None:
        bad |= images.read_image(params.mask_image) != 0
    bad |= defects.find_defects(np.where(bad, 0, image), bad) != 0
    found = powder.calibrate_powder(
        image,
        bad,
        calibrant=params.calibrant,
        wavelength=params.wavelength,
        pixel_size=params.pixel_size,
        orientation=params.orientation,
        distance=params.distance,
        beam_centre=params.beam_centre,
        polarization=params.polarization,
        min_rings=params.min_rings,
    )
    if found.rms_deg > params.max_rms:
        raise HklflowError(
            f"the rings of {inputs.image} fit with an rms of {found.rms_deg:.4f} deg, above the "
            f"limit of {params.max_rms} deg; check calibrant and wavelength, or raise `max_rms`"
        )
    detector = replace(
        found.detector,
        sensor_thickness=params.sensor_thickness,
        sensor_attenuation=params.sensor_attenuation,
    )
    stage.write_json(
        outputs.geometry,
        {
            "source": f"powder:{inputs.image}",
            "detector": geometry.detector_to_dict(detector),
            "beam": {"wavelength_A": params.wavelength, "polarization": params.polarization},
            "poni": asdict(found.poni),
            "sigma": found.sigma,
            "correlation": found.correlation,
            "beam_centre_px": found.beam_centre,
            "beam_centre_sigma_px": found.beam_centre_sigma,
            "metrics": {
                "rms of 2theta in degrees": found.rms_deg,
                "rms by ring": found.ring_rms_deg,
                "rings": len(found.rings),
                "points": len(found.points),
                "points rejected": found.rejected,
                "reduced chi2 of counting statistics": found.chi2,
                "scatter beyond counting statistics in degrees": found.extra_sigma_deg,
            },
        },
    )
    poni.write_poni(outputs.poni, found.poni)

    two_theta = np.degrees(geometry.two_theta(detector))
    edges = np.linspace(two_theta.min(), two_theta.max(), 1001)
    weight, _ = np.histogram(two_theta[~bad], edges)
    total, _ = np.histogram(two_theta[~bad], edges, weights=image[~bad].astype(float))
    seen = weight > 0
    lines = np.array(list(found.two_theta_deg.values()))
    observed = np.array([found.two_theta_deg[int(ring)] for ring in found.points.ring])
    residual = np.degrees(found.points.residual)
    title = (
        f"{params.calibrant}: distance {1e3 * found.poni.dist:.4f}"
        f" ± {1e3 * found.sigma['dist']:.4f} mm, rms {found.rms_deg:.4f} deg"
        f" on {len(found.rings)} rings"
    )
    picture = plots.powder(
        image,
        bad,
        [_ring(detector, line) for line in np.radians(lines)],
        (0.5 * (edges[1:] + edges[:-1]))[seen],
        (total[seen] / weight[seen]),
        lines,
        (observed, residual),
        title,
    )
    plots.save(picture, outputs.picture)
    print(title)


def _ring(detector: "Detector", two_theta: float) -> "tuple[Floats, Floats]":
    """Pixel coordinates (slow, fast) of one ring."""
    import numpy as np

    angle = np.linspace(0, 2 * np.pi, 361)
    sin = np.sin(two_theta)
    cos = np.full_like(angle, np.cos(two_theta))
    return detector.intersect(np.stack([sin * np.cos(angle), sin * np.sin(angle), cos], axis=1))


if __name__ == "__main__":
    stage.command(main)
