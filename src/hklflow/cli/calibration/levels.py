"""Quadrants, modules, sensors and chips from powder rings, from Bragg peaks, or from both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.cli.calibration.several import kept
from hklflow.stages import powder_calibration

if TYPE_CHECKING:
    from hklflow.calibration.level_rounds import Powder
    from hklflow.calibration.levels import LevelSettings
    from hklflow.calibration.module_data import BraggPeaks
    from hklflow.geometry.modules import Modules
    from hklflow.images.pixel_groups import PixelGroups

Record = dict[str, Any]
#: Parameters of `LevelSettings`; the others are of the powder images.
NAMES = ("levels", "groups", "sensors", "chips", "rounds", "tolerance")


@dataclass(frozen=True)
class BraggScan:
    """Products of a refined scan.

    Attributes
    ----------
    start : dict
        Content of the ``geometry.json`` that the scan was reduced with.
    orientation : Path
        The scan's ``orientation.json``.
    scans, peaks, masks : mapping
        Scan file, peak table and pixel mask of each rotation, by its name.
    """

    start: Record
    orientation: Path
    scans: Mapping[str, Path]
    peaks: Mapping[str, Path]
    masks: Mapping[str, Path]

    def lists(self) -> "list[BraggPeaks]":
        """Return the residuals of the peaks, one list for each rotation."""
        from hklflow.calibration.modules import bragg_peaks
        from hklflow.stage import orientation as products

        refined = stage.read_orientation(self.orientation)
        names = list(refined.rotations)
        scans, peaks = ([files[name] for name in names] for files in (self.scans, self.peaks))
        observed = products.read(names, scans, peaks)
        return [
            bragg_peaks(refined.rotation(name), refined.ub, table)
            for name, table in zip(names, observed.peaks, strict=True)
        ]

    def bad(self) -> NDArray[np.bool_]:
        """Return the mask of the first rotation."""
        from hklflow import nexus

        return np.asarray(nexus.read_mask(next(iter(self.masks.values()))) != 0)


def settings_of(params: Mapping[str, Any]) -> "LevelSettings":
    """Return the settings of levels among the parameters of a candidate.

    Raises
    ------
    HklflowError
        If a value is wrong.
    """
    from pydantic import ValidationError

    from hklflow.calibration.levels import LevelSettings

    given = {name: params[name] for name in NAMES if params.get(name) is not None}
    try:
        return LevelSettings.model_validate(given)
    except ValidationError as error:
        problems = [
            ": ".join([*(f"--{item['loc'][0]}" for _ in item["loc"][:1]),
                       item["msg"].removeprefix("Value error, ")])
            for item in error.errors()
        ]  # fmt: skip
        raise HklflowError("; ".join(problems)) from error


def read_groups(path: Path | None, state: Mapping[str, Any]) -> "PixelGroups | None":
    """Return the groups of pixels of a file; None without a file.

    Parameters
    ----------
    state : mapping
        Set-points, with which the detector of the groups is compared.

    Raises
    ------
    HklflowError
        If the groups are for another detector.
    """
    from hklflow import nexus

    if path is None:
        return None
    groups = nexus.read_groups(path)
    shape, serial = state.get("shape"), state.get("serial")
    groups.require(groups.labels.shape if shape is None else tuple(shape), serial=serial)
    return groups


def calibrate(
    settings: "LevelSettings",
    groups: "PixelGroups | None" = None,
    images: Sequence[Path] = (),
    params: powder_calibration.Params | None = None,
    scans: Sequence[BraggScan] = (),
    detector_name: str | None = None,
    powders: Sequence[Path] = (),
) -> Record:
    """Return a geometry with the parts of the levels fitted to powder images and scans together.

    The geometry of each image is calibrated separately before. The result is the geometry of the
    first image; without images, it is the geometry of the first scan, in which only parts move.

    Parameters
    ----------
    groups : PixelGroups, optional
        Groups that move as the parts of the last level.
    images : sequence of Path
        Images of the calibrant, with ``params`` for all.
    scans : sequence of BraggScan
    detector_name : str, optional
        Name of the detector in pyFAI, whose gaps divide it. None: the gaps in the mask.
    powders : sequence of Path
        File to write for each image, with the profile and the geometry before parts move.

    Raises
    ------
    HklflowError
        If a calibration fails, or the data cannot determine the levels.
    """
    from hklflow.calibration.level_rounds import refine_levels
    from hklflow.calibration.levels import hierarchy
    from hklflow.geometry import detector_from_dict, detector_to_dict

    patterns = _patterns(images, params, powders)
    start = None if not scans else detector_from_dict(scans[0].start["detector"])
    detector = patterns[0].detector if start is None else start
    before, name = None if start is None else start.modules, detector_name
    # The smallest parts of the geometry are its sensors, unless they were chips or groups.
    if before is not None and groups is None and not _divided(scans[0].start) and name is None:
        sensors = before
    elif groups is not None and len(settings.moving) == 1 and settings.moving != ("quadrant",):
        sensors = _ideal(groups.rectangles(), detector.pixel_size)
    else:
        bad = patterns[0].bad if patterns else scans[0].bad()
        sensors = _sensors(name, bad, detector.pixel_size)
    parts = hierarchy(settings, detector.shape, sensors, before, groups)
    lists = [peaks for scan in scans for peaks in scan.lists()]
    found = refine_levels(parts, patterns, lists, settings, print)
    metrics = found.metrics(settings, parts)
    metrics["divided_modules"] = (
        (groups is not None and settings.moving[-1] != "quadrant")
        or settings.moving[-1] == "chip"
        or (bool(scans) and _divided(scans[0].start))
    )
    if patterns:
        assert params is not None
        detector = replace(
            found.fit.detectors[0],
            sensor_thickness=params.sensor_thickness,
            sensor_attenuation=params.sensor_attenuation,
        )
        beam = {"wavelength_A": params.wavelength, "polarization": params.polarization}
        rest: Record = {"beam": beam}
    else:
        detector, rest = replace(detector, modules=found.fit.modules), kept(scans[0].start)
    sources = [f"{len(images)} powder images: {images[0]} ..."] if images else []
    sources += [f"Bragg peaks: {', '.join(str(scan.orientation) for scan in scans)}"] * bool(scans)
    return {
        **rest,
        "source": f"{' and '.join(f'{x}s' for x in settings.moving)} of {' and '.join(sources)}",
        "detector": detector_to_dict(detector),
        "module_metrics": metrics,
    }


def _patterns(
    images: Sequence[Path], params: powder_calibration.Params | None, powders: Sequence[Path]
) -> "list[Powder]":
    """Return the powder images with the geometry of each."""
    from hklflow.calibration import powder
    from hklflow.calibration.level_rounds import Powder

    patterns = []
    for number, path in enumerate(stage.progress(images, len(images), "images")):
        assert params is not None
        counts, bad, *_ = powder_calibration.prepare(path, params)
        calibration = powder.calibrate_powder(counts, bad, powder_calibration.settings(params))
        if powders:
            powder_calibration.write_powder(powders[number], counts, calibration, params)
        angles = calibration.calibrant.two_theta(calibration.wavelength)
        patterns.append(Powder(counts, bad, calibration.detector, angles, params.polarization))
    if len(shapes := {pattern.counts.shape for pattern in patterns}) > 1:
        raise HklflowError(
            f"the images have the shapes {' and '.join(map(str, sorted(shapes)))}; give images of "
            "one detector"
        )
    return patterns


def _divided(start: Record) -> bool:
    """Return True if the smallest parts of a geometry are chips or groups of pixels."""
    return bool(start.get("module_metrics", {}).get("divided_modules", False))


def _sensors(
    name: str | None, bad: NDArray[np.bool_], pixel_size: tuple[float, float]
) -> "Modules":
    """Return the rectangles of pyFAI's detector, or those between the gaps in a mask."""
    from hklflow.calibration.modules import detector_modules, modules_from_gaps

    if name is not None:
        return detector_modules(name)
    return _ideal(modules_from_gaps(bad), pixel_size)


def _ideal(boxes: NDArray[np.int64], pixel_size: tuple[float, float]) -> "Modules":
    from hklflow.geometry.modules import Modules

    return Modules.ideal(boxes, pixel_size[1] / pixel_size[0])
