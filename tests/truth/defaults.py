"""Computing functions with the defaults of the stages, which alone have any."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from hklflow.bragg import centroids, merging, observations, scaling, shells
from hklflow.bragg import converge as bragg_converge
from hklflow.calibration import powder
from hklflow.calibration.calibrants import Calibrant, read_calibrant
from hklflow.calibration.powder_cycles import PowderSettings
from hklflow.constants import (
    correct,
    dark,
    fluorescence,
    masking,
    merge_currents,
    ramp_process,
    ramps,
    stability,
)
from hklflow.dials import integrate as dials_integrate
from hklflow.images import frame_scale, mask3d
from hklflow.orientation import indexing, refinement
from hklflow.peaks import search as peaks
from hklflow.peaks.sampling import with_sampling
from hklflow.peaks.table import PeakTable
from hklflow.stage import ramp_settings
from hklflow.stages import (
    converge,
    correct_frames,
    counter_stability,
    fill,
    find_peaks,
    integrate,
    mask_3d,
    mask_constants,
    merge_current_source,
    merge_reflections,
    pdf,
    powder_calibration,
    process_dark,
    process_xray,
    refine_parent,
    scale_reflections,
)
from hklflow.stages import frame_scale as frame_scale_stage
from hklflow.volumes import punch, tapers

T = TypeVar("T")


def defaults(
    function: Callable[..., Any], params: type[BaseModel], **renamed: str
) -> dict[str, Any]:
    """Return the stage's defaults of a function's parameters.

    Parameters
    ----------
    function
        Whose parameters, where they are named as fields of ``params``, have the fields' defaults.
    params
        ``Params`` of a stage.
    renamed
        Parameter of the function -> name of its field.
    """
    fields = params.model_fields
    names = {name: name for name in inspect.signature(function).parameters} | renamed
    return {
        name: fields[field].get_default(call_default_factory=True)
        for name, field in names.items()
        if field in fields and not fields[field].is_required()
    }


def configured(
    function: Callable[..., T], params: type[BaseModel], **renamed: str
) -> Callable[..., T]:
    """Return the function with the stage's defaults for what it is not given; see `defaults`."""
    names = list(inspect.signature(function).parameters)
    values = defaults(function, params, **renamed)

    def filled(*given: Any, **named: Any) -> T:
        rest = {name: x for name, x in values.items() if name not in names[: len(given)]}
        return function(*given, **rest | named)

    return filled


def peak_params(**changes: Any) -> peaks.PeakParams:
    """Return the parameters of the peak search."""
    made = configured(peaks.PeakParams, find_peaks.Params)
    return made(**{"threshold": np.inf} | changes)


def searched(frames: Any, bad: Any) -> PeakTable:
    """Return the peaks of a stack of frames, with the errors that the stage `find_peaks` adds."""
    found = peaks.find_peaks([frames], bad, peak_params())
    pixels, in_frames = find_peaks.Params().sigma_floor
    errors: dict[str, Any] = {
        f"var_{n}": with_sampling(getattr(found, f"var_{n}"), getattr(found, f"width_{n}"))
        + floor**2
        for n, floor in (("frame", in_frames), ("slow", pixels), ("fast", pixels))
    }
    return replace(found, **errors)


REFINED_AS = {"hkl": "hkl_tolerance", "min_fraction": "min_indexed"}

mask3d_params = configured(mask3d.Mask3dParams, mask_3d.Params)
limits = configured(refinement.RefinementLimits, refine_parent.Params, **REFINED_AS)
"""Of the refinement of a parent."""
refine = partial(refinement.refine, limits=limits())
index_peaks = configured(
    indexing.index_peaks,
    refine_parent.Params,
    tolerance="hkl_tolerance",
    cell_tolerance="max_cell_deviation",
    min_fraction="min_indexed",
)


def transmission(signal: Any, incident: Any, **given: Any) -> frame_scale.Transmission:
    """Return the transmission with the window that the stage chooses, if no other is given."""
    chosen = {"window": frame_scale_stage.Params().frames_of_window(len(signal))}
    return frame_scale.transmission(signal, incident, **chosen | given)


bragg_positions = configured(punch.bragg_positions, fill.Params)
made_taper = configured(tapers.Taper, pdf.Params)
scaling_settings = configured(scaling.Settings, scale_reflections.Params)


def scale(observed: Any, group: Any, spans: Any, settings: scaling.Settings) -> scaling.Scaling:
    """Scale the rotations r0, r1 ... of one crystal."""
    names = [f"r{number}" for number in range(len(spans))]
    return scaling.scale(observed, group, spans, settings, names, [0] * len(spans))


gather = partial(observations.gather, d_min=0.0)
merge = configured(merging.merge, merge_reflections.Params, estimator="amplitudes")
shell_statistics = configured(shells.statistics, merge_reflections.Params, n_shells="shells")


def powder_settings(calibrant: str | Path | Calibrant, **options: Any) -> PowderSettings:
    """Return settings of the refinement of a geometry; the calibrant may be a name or a file."""
    if not isinstance(calibrant, Calibrant):
        calibrant = read_calibrant(calibrant)
    made = configured(PowderSettings, powder_calibration.Params)
    return made(calibrant=calibrant, **{"polarization": 0.99} | options)


def calibrate_powder(image: Any, bad: Any, **options: Any) -> powder.PowderCalibration:
    """Refine the geometry from an image, with options of `powder_settings`."""
    return powder.calibrate_powder(image, bad, powder_settings(**options))


dark_limits = configured(dark.DarkLimits, process_dark.Params)
spectrum = configured(fluorescence.Spectrum, process_xray.Params)
mask_of_constants = configured(masking.mask_constants, mask_constants.Params)
merge_of_currents = configured(merge_currents.merge_currents, merge_current_source.Params)
steady = configured(stability.Stability, counter_stability.Params)
correction = configured(
    correct.Correction,
    correct_frames.Params,
    shared="common_mode",
    least="dark_pixels",
    flat="flat_field",
)
RAMP_FIELDS = {"least": "min_points", "margin": "saturation_margin"}
RAMP = defaults(ramp_process.RampProcess, ramp_settings.RampSettings, **RAMP_FIELDS)
"""What every process of a ramp is given."""
ramp_fit = partial(
    configured(
        ramps.Fit, ramp_settings.RampSettings, floor="saturation_margin", least="min_points"
    ),
    ceiling=np.inf,
)
rest = configured(
    bragg_converge.Rest,
    converge.Params,
    cell="cell_change",
    orientation="orientation_change",
    rmsd="rmsd_change",
    indexed="indexed_change",
    cycles="max_cycles",
    integrations="max_integrations",
)
acceptance = configured(
    centroids.Acceptance,
    converge.Params,
    significance="min_significance",
    correlation="min_correlation",
)
limits_of_converge = configured(refinement.RefinementLimits, converge.Params, **REFINED_AS)
integrate_with_dials = configured(dials_integrate.integrate, integrate.Params)
