"""Geometry from several images at known settings; modules from powder rings or Bragg peaks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.stages import powder_calibration

if TYPE_CHECKING:
    from hklflow.geometry.modules import Modules

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


def groups_as_modules(path: str | None, state: Mapping[str, Any]) -> "Modules | None":
    """Return the groups of pixels of a file as undisplaced modules; None without a file.

    Parameters
    ----------
    state : mapping
        Set-points, with which the detector of the groups is compared.

    Raises
    ------
    HklflowError
        If the groups are for another detector, or are not rectangles.
    """
    from hklflow import nexus
    from hklflow.geometry.modules import Modules

    if path is None:
        return None
    groups = nexus.read_groups(Path(path))
    shape, serial = state.get("shape"), state.get("serial")
    groups.require(groups.labels.shape if shape is None else tuple(shape), serial=serial)
    size = state.get("pixel_size") or (1.0, 1.0)
    return Modules.ideal(groups.rectangles(), size[1] / size[0])


def modules_of_rings(
    images: Sequence[Path],
    params: powder_calibration.Params,
    groups: "Modules | None",
    powders: Sequence[Path],
) -> Record:
    """Return a geometry with modules fitted to powder images with displaced beam centres.

    The geometry of each image is calibrated separately. If ``groups`` is not None, these rectangles
    move instead of the detector's modules. Each file of ``powders`` gets an image, with the profile
    and the geometry from which the fit of the modules starts.

    Raises
    ------
    HklflowError
        If a calibration fails, or the images cannot determine the modules.
    """
    from hklflow.calibration import powder
    from hklflow.calibration.modules import fit_modules, ring_image
    from hklflow.calibration.powder_cycles import response
    from hklflow.geometry import detector_to_dict

    rings, modules, settings = [], None, powder_calibration.settings(params)
    for number, path in enumerate(stage.progress(images, len(images), "images")):
        counts, bad, *_ = powder_calibration.prepare(path, params)
        calibration = powder.calibrate_powder(counts, bad, settings)
        if powders:
            powder_calibration.write_powder(powders[number], counts, calibration, params)
        modules = modules or _ideal(groups or params.detector, bad, params.pixel_size)
        detector = replace(calibration.detector, modules=modules)
        angles = calibration.calibrant.two_theta(calibration.wavelength)
        even = np.where(bad, 0.0, counts / response(detector, params.polarization))
        rings.append(ring_image(even, bad, detector, angles))
    assert modules is not None
    fit = fit_modules(modules, rings)
    detector = replace(
        fit.detectors[0],
        sensor_thickness=params.sensor_thickness,
        sensor_attenuation=params.sensor_attenuation,
    )
    return {
        "source": f"modules of {len(images)} powder images: {images[0]} ...",
        "detector": detector_to_dict(detector),
        "beam": {"wavelength_A": params.wavelength, "polarization": params.polarization},
        "module_metrics": fit.metrics(),
    }


def modules_of_peaks(
    start: Record,
    orientation: Path,
    scans: Mapping[str, Path],
    peaks: Mapping[str, Path],
    masks: Mapping[str, Path],
    moving: "str | Modules | None",
) -> Record:
    """Return a geometry with modules fitted to the Bragg peaks of a refined scan.

    The geometry of the detector as a whole is not changed.

    Parameters
    ----------
    start : dict
        Content of the ``geometry.json`` that the scan was reduced with.
    orientation : Path
        The scan's ``orientation.json``.
    scans, peaks, masks : mapping
        Scan file, peak table and pixel mask of each rotation, by its name.
    moving : str, Modules or None
        Name of the detector in pyFAI, or the rectangles that move. None: the modules of the
        geometry, or those between the gaps in the mask.

    Raises
    ------
    HklflowError
        If there are no modules, or the peaks cannot determine their positions.
    """
    from hklflow import nexus
    from hklflow.calibration.modules import bragg_peaks, fit_modules
    from hklflow.geometry import detector_from_dict, detector_to_dict
    from hklflow.geometry.modules import Modules
    from hklflow.stage import orientation as products

    refined = stage.read_orientation(orientation)
    names = list(refined.rotations)
    observed = products.read(names, [scans[n] for n in names], [peaks[n] for n in names])
    lists = [
        bragg_peaks(refined.rotation(name), refined.ub, table)
        for name, table in zip(names, observed.peaks, strict=True)
    ]
    detector = detector_from_dict(start["detector"])
    modules = detector.modules
    if modules is not None and isinstance(moving, Modules):
        raise HklflowError(
            "the geometry already has displaced modules, which groups of pixels would replace; "
            "start from a version without modules (`pin`), or leave --groups out"
        )
    if modules is None:
        gaps = nexus.read_mask(masks[names[0]]) != 0 if moving is None else None
        modules = _ideal(moving, gaps, detector.pixel_size)
    fit = fit_modules(modules, bragg=lists, levels=("detector", "module"))
    return {
        **_kept(start),
        "source": f"modules of Bragg peaks: {orientation}",
        "detector": detector_to_dict(replace(detector, modules=fit.modules)),
        "module_metrics": fit.metrics(),
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
        **_kept(start),
        "source": f"modules of the converged refinement: {path}",
        "detector": detector_to_dict(replace(detector, modules=Modules.from_dict(fit["modules"]))),
        "module_metrics": {**fit["module_metrics"], "held_out": float(after / before)},
    }


def _kept(start: Record) -> Record:
    """Return a geometry without the entries that are not valid for displaced modules."""
    return {k: v for k, v in start.items() if k not in ("provenance", "metrics", "gates")}


def _ideal(
    name: "str | Modules | None", bad: NDArray[np.bool_] | None, pixel_size: tuple[float, float]
) -> "Modules":
    """Return undisplaced modules: given, of pyFAI's detector, or between the gaps in a mask."""
    from hklflow.calibration.modules import detector_modules, modules_from_gaps
    from hklflow.geometry.modules import Modules

    if isinstance(name, Modules):
        return name
    if name is not None:
        return detector_modules(name)
    if bad is None:
        raise HklflowError("the modules are not known; give --set detector=... (its name in pyFAI)")
    return Modules.ideal(modules_from_gaps(bad), pixel_size[1] / pixel_size[0])
