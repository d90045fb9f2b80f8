"""Refine the geometry of the detector from the rings of a powder calibrant."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from hklflow import stage
from hklflow.geometry import plausible

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from hklflow.calibration.detectors import KnownDetector
    from hklflow.calibration.powder import PowderCalibration
    from hklflow.calibration.powder_cycles import PowderSettings
    from hklflow.geometry import Detector, Floats
    from hklflow.images.pixel_binning import PixelBinning
    from hklflow.stage.rehearsal import Known

VERSION = 3


class Inputs(stage.Inputs):
    image: Path
    """Calibrant image: TIFF, CBF, EDF, .npy, or HDF5 as detectors write it."""


class Outputs(stage.Outputs):
    geometry: Path
    """Refined geometry with its uncertainties."""
    poni: Path
    """Refined geometry as a PONI file for pyFAI."""
    picture: Path
    """Picture: rings on the image, profile, residuals."""
    powder: Path
    """Image, its profile, and the geometry, for the master files of scans."""


class Params(stage.Params):
    dataset: str | None = None
    """Dataset of an HDF5 file: an image or a stack of frames; None: where detectors write frames.
    In the configuration `image: file.h5::/path` says the same."""
    exposures: Literal["sum", "first"] = "sum"
    """Frames of an HDF5 file that are used: the sum of all, or the first."""
    calibrant: str | Path = "CeO2"
    """Name of the calibrant in pyFAI, or a file: `x.D` with d-spacings in Å, one per line, in
    decreasing order; `x.yaml` of a folder of calibrants, with the rings that are not used.
    """
    max_rings: int | None = Field(None, ge=1)
    """Number of innermost rings to use; None: all."""
    purge_rings: tuple[int, ...] = ()
    """Rings that are not used; the innermost is 0."""
    wavelength: float = Field(gt=0)
    """Wavelength in Å."""
    pixel_size: tuple[float, float] = Field()
    """Pixel size (slow, fast) in m."""
    distance: float | None = Field(None, gt=0, le=plausible.DISTANCES[1])
    """Approximate distance in m; None: the distance is found from the rings."""
    beam_centre: tuple[float, float] | None = None
    """Approximate beam centre (slow, fast) in pixels; None: the centre is found from the symmetry
    of the rings.
    """
    orientation: int = Field(2, ge=1, le=4)
    """Orientation of the image in pyFAI's numbering: 2 is an image seen from the sample with the
    first row at the top. It is not refined: a mirrored image has the same rings.
    """
    detector: str | None = None
    """Name of the detector in pyFAI, such as Pilatus 1M. Shape, pixel size and gaps are compared
    with the image, and the gaps are masked.
    """
    polarization: float = Field(ge=0, le=1)
    """Fraction of the intensity with the electric vector horizontal (0.5: unpolarised)."""
    sensor_thickness: float | None = Field(None, gt=0)
    """Thickness of the sensor in m; None: the value in the raw file of the scan."""
    sensor_attenuation: float | None = Field(None, gt=0)
    """Attenuation coefficient of the sensor in 1/m; None: calculated from the sensor material and
    the wavelength of the scan.
    """
    min_rings: int = Field(3, ge=2)
    """Smallest number of rings."""
    mask_image: Path | None = None
    """Mask image: nonzero is bad. Negative pixels are always bad."""
    dark: Path | None = None
    """Dark image, which is subtracted from each frame; of several frames in HDF5, their mean."""
    flat: Path | None = None
    """Flat-field image (relative response of the pixels). The image minus the dark image is divided
    by the flat field; pixels with a flat field of 0 or less are bad.
    """
    binning: Literal[1, 2, 4, 8] = 1
    """Side in pixels of the blocks that are summed before rings are searched. Above 1, the geometry
    is one of binned frames, and only frames with the same `binning` use it. Images and all other
    parameters are those of frames as measured."""
    max_rms: float = Field(0.02, gt=0)
    """Largest accepted rms difference of observed and calculated 2θ, in degrees."""

    @field_validator("wavelength", mode="after")
    @classmethod
    def _of_x_rays(cls, value: float) -> float:
        if (problem := plausible.wavelength_problem(value)) is not None:
            raise ValueError(problem)
        return value

    @field_validator("pixel_size", mode="after")
    @classmethod
    def _of_pixels(cls, value: tuple[float, float]) -> tuple[float, float]:
        if (problem := plausible.pixel_problem(value)) is not None:
            raise ValueError(problem)
        return value

    @field_validator("calibrant", mode="after")
    @classmethod
    def _file_or_name(cls, value: str | Path) -> str | Path:
        # A path is an input of the rule, so its hash is recorded.
        from hklflow.calibration.calibrants import is_file

        return Path(value) if is_file(value) else str(value)


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Refine the geometry, judge it, and write the results."""
    from dataclasses import replace

    from hklflow import geometry, plots
    from hklflow.base.errors import HklflowError
    from hklflow.calibration import assess, powder
    from hklflow.formats import poni

    counts, bad, known, binning = prepare(inputs.image, params)
    calibration = powder.calibrate_powder(counts, bad, settings(params))
    if calibration.rms_deg > params.max_rms:
        raise HklflowError(
            f"the rings of {inputs.image} fit with an rms of {calibration.rms_deg:.4f} deg, above "
            f"the limit of {params.max_rms} deg; check calibrant and wavelength, or raise `max_rms`"
        )
    metrics = assess.metrics(
        calibration,
        modules=known.modules if known is not None else None,
        gaps=known.gaps if known is not None else None,
    )
    gates = assess.judge(metrics, assess.GateLimits())
    detector = replace(
        calibration.detector,
        sensor_thickness=params.sensor_thickness,
        sensor_attenuation=params.sensor_attenuation,
    )
    product = {
        "source": f"powder:{inputs.image}",
        "detector": geometry.detector_to_dict(detector),
        "beam": {"wavelength_A": params.wavelength, "polarization": params.polarization},
        **_refined(calibration, metrics),
        "gates": gates,
        **said_binning(binning),
    }
    stage.write_json(outputs.geometry, product)
    poni.write_poni(outputs.poni, calibration.poni)

    title = (
        f"{calibration.calibrant.name}: distance {1e3 * calibration.poni.dist:.4f}"
        f" ± {1e3 * calibration.sigma['dist']:.4f} mm, rms {calibration.rms_deg:.4f} deg"
        f" on {len(calibration.rings)} rings"
    )
    picture = _picture(counts, bad, calibration, detector, title)
    plots.save(picture, outputs.picture)
    write_powder(outputs.powder, counts, calibration, params)
    print(title)
    print(metrics["wavelength"]["source"])
    for gate in gates:
        if not gate["passed"]:
            print(f"gate {gate['name']}: {gate['sentence']}")


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: "Known") -> None:
    """Open the calibrant, the first exposures and the detector; no ring is searched."""
    if inputs.image in known.products:  # it is simulated first
        return
    settings(params)
    image, *_ = opened(inputs.image, params, first=True)
    for name in ("dark", "flat"):
        _read(name, params, image.shape, first=True)


def write_powder(
    path: Path, counts: "Floats", calibration: "PowderCalibration", params: Params
) -> None:
    """Write a powder image (slow, fast) with its profile and the geometry of its rings."""
    import numpy as np

    from hklflow import nexus
    from hklflow.formats.poni import poni_unmirrored

    profile = calibration.profile
    nexus.write_powder(
        path,
        np.where(calibration.bad, np.nan, counts),
        (profile.two_theta_deg, profile.counts, profile.sigma),
        np.array(list(calibration.two_theta_deg.values())),
        poni_unmirrored(calibration.detector, params.wavelength),
        calibrant=calibration.calibrant.name,
        detector=params.detector if params.binning == 1 else None,
    )


def said_binning(binning: "PixelBinning | None") -> dict[str, Any]:
    """Return the entry of a geometry file with the binning; empty for frames as measured."""
    return {} if binning is None else {"binning": binning.to_dict()}


def _refined(calibration: "PowderCalibration", metrics: dict[str, Any]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "poni": asdict(calibration.poni),
        "sigma": calibration.sigma,
        "correlation": calibration.correlation,
        "beam_centre_px": calibration.beam_centre,
        "beam_centre_sigma_px": calibration.beam_centre_sigma,
        "metrics": {
            "rms of 2theta in degrees": calibration.rms_deg,
            "rms by ring": calibration.ring_rms_deg,
            "points": len(calibration.points),
            "points rejected": calibration.rejected,
            "reduced chi2 of counting statistics": calibration.chi2,
            "scatter beyond counting statistics in degrees": calibration.extra_sigma_deg,
            **metrics,
        },
    }


def _picture(
    counts: "Floats",
    bad: "NDArray[np.bool_]",
    calibration: "PowderCalibration",
    detector: "Detector",
    title: str,
) -> "Figure":
    """Draw the image with the rings, the mean counts against 2θ, and the residuals."""
    import numpy as np

    from hklflow import geometry, plots

    two_theta = np.degrees(geometry.two_theta(detector))
    edges = np.linspace(two_theta.min(), two_theta.max(), 1001)
    weight, _ = np.histogram(two_theta[~bad], edges)
    total, _ = np.histogram(two_theta[~bad], edges, weights=counts[~bad])
    seen = weight > 0
    lines = np.array(list(calibration.two_theta_deg.values()))
    observed = np.array([calibration.two_theta_deg[int(ring)] for ring in calibration.points.ring])
    residual = np.degrees(calibration.points.residual)
    return plots.powder(
        counts,
        bad,
        [_ring(detector, line) for line in np.radians(lines)],
        (0.5 * (edges[1:] + edges[:-1]))[seen],
        (total[seen] / weight[seen]),
        lines,
        (observed, residual),
        title,
    )


def settings(params: Params) -> "PowderSettings":
    """Return the settings of a fit of rings, with the calibrant's rings to be used.

    Pixels of the settings are blocks of pixels if the parameters bin the image.
    """
    from hklflow.calibration.calibrants import read_calibrant
    from hklflow.calibration.powder_cycles import PowderSettings

    b, centre = params.binning, params.beam_centre
    return PowderSettings(
        calibrant=read_calibrant(
            params.calibrant, max_rings=params.max_rings, purge_rings=params.purge_rings
        ),
        wavelength=params.wavelength,
        pixel_size=(b * params.pixel_size[0], b * params.pixel_size[1]),
        orientation=params.orientation,
        distance=params.distance,
        beam_centre=None if centre is None else (centre[0] / b, centre[1] / b),
        polarization=params.polarization,
        min_rings=params.min_rings,
    )


def prepare(
    path: Path, params: Params
) -> "tuple[Floats, NDArray[np.bool_], KnownDetector | None, PixelBinning | None]":
    """Return corrected counts (slow, fast), bad pixels, the detector, and the binning.

    Counts are the image minus the dark image, divided by the flat field, then summed in blocks. A
    block with a bad pixel is bad.

    Raises
    ------
    HklflowError
        If a file cannot be read, or shapes or the detector do not match.
    """
    import numpy as np

    from hklflow.images import defects
    from hklflow.images.pixel_binning import PixelBinning, bin_mask, bin_sum

    image, n, bad, known = opened(path, params)
    dark, response = (_read(name, params, image.shape) for name in ("dark", "flat"))
    bad |= defects.find_defects(np.where(bad, 0, image), bad) != 0
    counts = np.where(bad, 0.0, image)
    if dark is not None:
        bad |= ~np.isfinite(dark)
        counts -= np.where(bad, 0.0, n * dark)
    if response is not None:
        bad |= ~(response > 0)
        # The flat field is normalised to the mean 1, so that counts keep their errors.
        counts = np.where(bad, 0.0, counts / np.where(bad, 1.0, response / response[~bad].mean()))
    if params.binning == 1:
        return counts, bad, known, None
    binning = PixelBinning(params.binning, (counts.shape[0], counts.shape[1]))
    if known is not None:
        known = known.binned(binning.factor)
    return bin_sum(counts, binning.factor), bin_mask(bad, binning.factor), known, binning


def opened(
    path: Path, params: Params, first: bool = False
) -> "tuple[NDArray[Any], int, NDArray[np.bool_], KnownDetector | None]":
    """Return the image (slow, fast), its number of exposures, its bad pixels, and the detector.

    With ``first`` only the first exposure is read, whatever exposures are used.

    Raises
    ------
    HklflowError
        If a file cannot be read, or shapes or the detector do not match.
    """
    from hklflow.calibration import detectors
    from hklflow.formats.exposures import read_exposures, read_first, require_unbinned

    require_unbinned(path)
    if first:
        image, n, bad = read_first(path, params.dataset)
    else:
        image, n, bad = read_exposures(path, params.dataset, params.exposures)
    if n > 1 and not first:
        print(f"sum of {n} frames of {path}")
    known = None
    if params.detector is not None:
        known = detectors.known_detector(params.detector)
        # Pixels without counts in one of many exposures may have counts in the sum.
        partial = first and n > 1 and params.exposures == "sum"
        known.check(image, bad | (image == 0) | partial, params.pixel_size)
        bad = bad | known.gaps
    masked = _read("mask_image", params, image.shape, first)
    return image, n, bad if masked is None else bad | (masked != 0), known


def _read(
    name: str, params: Params, shape: tuple[int, ...], first: bool = False
) -> "NDArray[Any] | None":
    """Read the image of a parameter; None if it is not given. Require the powder image's shape."""
    from hklflow.base.errors import HklflowError
    from hklflow.formats.exposures import read_first, read_mean

    path: Path | None = getattr(params, name)
    if path is None:
        return None
    image = read_first(path, None)[0] if first else read_mean(path)
    if image.shape != shape:
        raise HklflowError(
            f"{name}: {path} has {image.shape} pixels but the powder image has {shape}; use an "
            "image of the same detector with the same orientation"
        )
    return image


def _ring(detector: "Detector", two_theta: float) -> "tuple[Floats, Floats]":
    """Return the pixel coordinates (slow, fast) of one ring."""
    import numpy as np

    angle = np.linspace(0, 2 * np.pi, 361)
    sin = np.sin(two_theta)
    cos = np.full_like(angle, np.cos(two_theta))
    return detector.intersect(np.stack([sin * np.cos(angle), sin * np.sin(angle), cos], axis=1))


if __name__ == "__main__":
    stage.command(main)
