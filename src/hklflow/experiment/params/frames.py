"""Parameters of the stages of one rotation: from raw files to peaks and masks."""

from hklflow import stages
from hklflow.experiment import binned
from hklflow.experiment.experiment import Experiment
from hklflow.experiment.models import PoniFile, PowderImage
from hklflow.experiment.simulated import simulation_description
from hklflow.experiment.step import Wildcards
from hklflow.experiment.tables import Rotation
from hklflow.formats.assemble import axes_by_rotation
from hklflow.geometry import correction, left_out


def _row(experiment: Experiment, at: Wildcards) -> Rotation:
    return experiment.rotation(at["sample"], at["scan"], at["rotation"])


def simulate(experiment: Experiment, at: Wildcards) -> stages.simulate.Params:
    """Return the parameters of one simulated raw file."""
    description = simulation_description(experiment, at["raw"])
    return stages.simulate.Params(description=description.model_dump_json(exclude_defaults=True))


def powder_calibration(experiment: Experiment, at: Wildcards) -> stages.powder_calibration.Params:
    """Return the parameters of a calibration from a powder image."""
    entry = experiment.config.calibrations[at["calibration"]]
    assert isinstance(entry, PowderImage)
    return stages.powder_calibration.Params(**entry.model_dump(exclude={"image"}))


def import_poni(experiment: Experiment, at: Wildcards) -> stages.import_poni.Params:
    """Return the parameters of a calibration from a PONI file."""
    entry = experiment.config.calibrations[at["calibration"]]
    assert isinstance(entry, PoniFile)
    return stages.import_poni.Params(**entry.model_dump(exclude={"poni"}))


def sum_scans(experiment: Experiment, at: Wildcards) -> stages.sum_scans.Params:
    """Return the parameters of the sum of repeated scans."""
    row = _row(experiment, at)
    given = experiment.settings(at["sample"], at["scan"]).sum_scans.model_dump()
    if row.is_series:
        given["patterns"] = row.parts
    return stages.sum_scans.Params(**given)


def correct_frames(experiment: Experiment, at: Wildcards) -> stages.correct_frames.Params:
    """Return the parameters that correct the frames of an integrating detector."""
    row, key = _row(experiment, at), (at["sample"], at["scan"])
    given = experiment.settings(*key).correct_frames.model_dump(exclude={"constants"})
    if row.is_series:
        given["pattern"] = row.raw
    entry = experiment.corrected_detector(*key)
    if entry is not None and given["asic_size"] is None:
        given["asic_size"] = entry.asic_size
    return stages.correct_frames.Params(**given)


def _series(experiment: Experiment, at: Wildcards) -> str | None:
    """Return the file name pattern of an image series; None for other raw data."""
    row = _row(experiment, at)
    if row.is_sum or experiment.is_corrected(at["sample"], at["scan"]):
        return None
    return row.raw if row.is_series else None


def bin_frames(experiment: Experiment, at: Wildcards) -> stages.bin_frames.Params:
    """Return the parameters that bin the frames of a rotation."""
    own = experiment.settings(at["sample"], at["scan"]).import_scan
    return stages.bin_frames.Params.model_validate(
        {
            "binning": experiment.config.binning,
            # The sum of repeated scans contains the saturation of the sum.
            "saturation": None if _row(experiment, at).is_sum else own.saturation,
            "pattern": _series(experiment, at),
        }
    )


def import_scan(experiment: Experiment, at: Wildcards) -> stages.import_scan.Params:
    """Return the parameters of the import; values of the scan table override the configuration."""
    row, binning = _row(experiment, at), experiment.config.binning
    given = experiment.settings(at["sample"], at["scan"]).import_scan.model_dump()
    fixed = {name: value for name, (value, step) in row.goniometer.items() if step is None}
    given["angles"] = given["angles"] | fixed
    for name, (start, step) in row.goniometer.items():
        if step is not None:
            given |= {"scan_axis": name, "start": start, "step": step}
    given["leave_out"] = left_out.of_rotation(given["leave_out"], at["rotation"])
    given["detector"] = correction.of_rotation(given["detector"], at["rotation"])
    axes = axes_by_rotation(given["axes"])
    given["axes"] = axes.get(at["rotation"], axes.get(None, ()))
    given["wavelength"] = given.pop("wavelengths").get(at["rotation"], given["wavelength"])
    given["binning"] = binning
    if binning > 1:
        # `saturation` is for one pixel; the file of binned frames contains the saturation of a
        # block.
        given["saturation"] = None
    elif pattern := _series(experiment, at):
        given["pattern"] = pattern
    if row.frames is not None:
        given["n_frames"] = row.frames
    if (temperature := experiment.scans[at["sample"], at["scan"]].temperature) is not None:
        given["temperature"] = temperature
    return stages.import_scan.Params(**given)


def pixel_mask(experiment: Experiment, at: Wildcards) -> stages.pixel_mask.Params:
    """Return the parameters of the pixel mask."""
    own = experiment.settings(at["sample"], at["scan"]).pixel_mask
    return binned.pixel_mask(own, experiment.config.binning)


def artificial_normalization(
    experiment: Experiment, at: Wildcards
) -> stages.artificial_normalization.Params:
    """Return the parameters of an artificial normalisation."""
    own = experiment.settings(at["sample"], at["scan"]).normalization
    given = own.model_dump(exclude={"use", "artificial"})
    # Without a method the job does not exist, but its parameters are listed.
    return stages.artificial_normalization.Params(**given, method=own.artificial or "self_flat")


def background(experiment: Experiment, at: Wildcards) -> stages.background.Params:
    """Return the parameters of the background of a rotation."""
    settings = experiment.settings(at["sample"], at["scan"])
    own, curve = settings.background, settings.frame_scale
    shared = own.model_dump(exclude={"runs", "unmeasured", "rings"})
    return stages.background.Params(
        **shared,
        runs=own.of_rotation(at["rotation"]),
        curve={name: getattr(curve, name) for name in ("source", "smooth", "window")},
        # That of single frames and single pixels, as the run has them.
        saturation=settings.import_scan.saturation,
    )


def find_peaks(experiment: Experiment, at: Wildcards) -> stages.find_peaks.Params:
    """Return the parameters of the peak search."""
    own = experiment.settings(at["sample"], at["scan"]).find_peaks
    own = binned.find_peaks(own, experiment.config.binning)
    return stages.find_peaks.Params(**own.model_dump())


def mask_3d(experiment: Experiment, at: Wildcards) -> stages.mask_3d.Params:
    """Return the parameters of the 3-D mask; the rotation is needed only with the crystal model."""
    own = experiment.settings(at["sample"], at["scan"]).mask_3d
    own = binned.mask_3d(own, experiment.config.binning)
    return stages.mask_3d.Params(**own.model_dump(), rotation=at["rotation"] if own.model else None)
