"""Geometry from several images at known settings; modules of a refinement that converged."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.stages import powder_calibration

Record = dict[str, Any]


def series(
    images: Sequence[Path],
    params: powder_calibration.Params,
    offsets: Sequence[float],
    arms_deg: Sequence[float],
    powders: Sequence[Path],
) -> Record:
    """Return the content of ``geometry.json`` from images at known distances or arm angles.

    Parameters
    ----------
    images : sequence of Path
        Images of the calibrant.
    params
        Parameters for all images.
    offsets, arms_deg : sequence of float
        Distance of each image minus the distance of the first image in m, and arm angle of each
        image in degrees. Empty if all images have the same value.
    powders : sequence of Path
        File to write for each image: the image, its profile and its geometry. Empty: none.

    Raises
    ------
    HklflowError
        If the numbers of images, offsets and angles differ, or the calibration fails.
    """
    from hklflow.calibration import assess
    from hklflow.calibration.powder_series import PowderImage, calibrate_powder_series
    from hklflow.geometry import detector_to_dict

    for name, values in (("--offset", offsets), ("--arm", arms_deg)):
        if values and len(values) != len(images):
            raise HklflowError(f"{len(values)} values of {name} for {len(images)} images; give one "
                               "for each")  # fmt: skip
    prepared = [powder_calibration.prepare(path, params) for path in images]
    series = calibrate_powder_series(
        [
            PowderImage(
                counts, bad, offsets[i] if offsets else 0.0, arms_deg[i] if arms_deg else 0.0
            )
            for i, (counts, bad, *_) in enumerate(prepared)
        ],
        powder_calibration.settings(params),
    )
    for path, image, (counts, *_) in zip(powders, series.images, prepared, strict=False):
        powder_calibration.write_powder(path, counts, image, params)
    metrics = []
    for image, (_, _, known, _) in zip(series.images, prepared, strict=True):
        gaps = None if known is None else known.gaps
        metrics.append(assess.metrics(image, gaps=gaps, given_wavelength=params.wavelength))
    sigma = np.sqrt(np.diag(series.covariance))
    detector = replace(
        series.poni.detector(),
        sensor_thickness=params.sensor_thickness,
        sensor_attenuation=params.sensor_attenuation,
    )
    return {
        "source": f"powder series of {len(images)}: {images[0]} ...",
        "detector": detector_to_dict(detector),
        "beam": {"wavelength_A": series.wavelength, "polarization": params.polarization},
        "poni": asdict(series.poni),
        "sigma": dict(zip(series.free, sigma.tolist(), strict=True)),
        "correlation": series.correlation,
        "beam_centre_px": metrics[0]["beam_centre_px"],
        "beam_centre_sigma_px": metrics[0]["beam_centre_sigma_px"],
        "metrics": {**metrics[0], "others": metrics[1:]},
        **powder_calibration.said_binning(prepared[0][3]),
    }


def modules_of_loop(start: Record, path: Path) -> Record:
    """Return a geometry with the modules that the converging refinement of a scan found.

    The geometry of the detector as a whole is not changed.

    Parameters
    ----------
    start : dict
        Content of the ``geometry.json`` that the scan was reduced with.
    path : Path
        The scan's ``modules.json``, which must contain a fit.
    """
    from hklflow.geometry import detector_from_dict, detector_to_dict
    from hklflow.geometry.modules import Modules

    fit = stage.read_json(path)["fit"]
    before, after = (
        np.hypot(*fit[f"rmsd of held-out peaks {when} (slow, fast, frame)"][:2])
        for when in ("before", "after")
    )
    detector = detector_from_dict(start["detector"])
    return {
        **kept(start),
        "source": f"modules of the converged refinement: {path}",
        "detector": detector_to_dict(replace(detector, modules=Modules.from_dict(fit["modules"]))),
        "module_metrics": {**fit["module_metrics"], "held_out": float(after / before)},
    }


def kept(start: Record) -> Record:
    """Return a geometry without the entries that are not valid for displaced modules."""
    return {k: v for k, v in start.items() if k not in ("provenance", "metrics", "gates")}
