"""Make a normalisation of one rotation from its own frames, for want of a measured one.

The scattering of the sample itself is taken for the response of the pixels. This removes a part of
the diffuse scattering from S(Q), so all products made with it are diagnostic.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.images.pixel_groups import PixelGroups
    from hklflow.images.scan import RotationScan

VERSION = 1
FRAMES_OF = "scan"
DIAGNOSTIC = (
    "the normalisation is artificial: it was made from the scattering of the sample itself, so "
    "S(Q) lacks what the sample's mean scattering has in common with it; use a measured "
    "normalisation (`normalization: use`)"
)


class Inputs(stage.Inputs):
    scan: Path
    """Scan file."""
    mask: Path
    """Pixel mask."""


class Outputs(stage.Outputs):
    normalization: Path
    """Response of the pixels."""
    picture: Path
    """Picture: the response, with the masked pixels."""
    metrics: Path
    """Range and errors of the response."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    groups: int = Field(16, ge=3, le=100)
    """Number of groups of frames; of each pixel, groups with a reflection are left out."""
    sigmas: float = Field(4.0, ge=2)
    """Deviation from the median of a pixel, in standard deviations, beyond which a group of frames
    is left out."""
    bins: int = Field(200, ge=20)
    """Number of bins of the scattering angle."""
    width: int = Field(20, ge=2)
    """Half-width in bins beyond which `snip` takes a maximum for background."""
    pixel_groups: Path | None = None
    """Groups of pixels (`hklflow groups make`): `self_flat` finds one factor for each group, such
    as a chip, and keeps all structure of the scattering within a group. None: one factor for each
    pixel."""


class Params(Settings):
    """Settings, and the method."""

    method: Literal["self_flat", "snip"]
    """`self_flat`: the level of a pixel between the reflections, relative to pixels at the same
    scattering angle. `snip`: the smooth background against the scattering angle."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Find the level of each pixel between the reflections, and the response from it."""
    import numpy as np

    from hklflow import nexus, plots
    from hklflow.base.errors import HklflowError
    from hklflow.constants import standard
    from hklflow.geometry import corrections, detector_to_dict, two_theta
    from hklflow.images import artificial, group_response

    scan, bits = nexus.read_scan(inputs.scan), nexus.read_mask(inputs.mask)
    detector, beam = scan.rotation.detector, scan.rotation.beam
    groups = _pixel_groups(scan, params)
    sums, light = _groups(scan, params.groups, threads)
    counts, exposure = artificial.clipped_counts(sums, light, params.sigmas)
    rate, error = artificial.rates_of(counts, exposure)
    expected, factors = standard.expected_elastic(detector, beam)
    level = rate / expected
    good = (bits == 0) & np.isfinite(level)
    if not np.any(level[good] > 0):
        raise HklflowError(
            f"the frames of {scan.raw} have no counts between the reflections, from which an "
            "artificial normalisation could be made; set `normalization: {artificial: null}`"
        )
    angle = two_theta(detector)
    of_groups: dict[str, Any] = {}
    if groups is not None:
        response = group_response.of_scan(
            counts, exposure * expected, angle, good, groups, params.bins
        )
        flat, errors = response.image(groups, good)
        relative = errors / flat
        of_groups = {"groups": response.about(groups) | {"fingerprint": groups.fingerprint}}
    elif params.method == "self_flat":
        flat = artificial.self_flat(level, angle, good, params.bins)
    else:
        flat = artificial.snip_background(level, angle, good, params.bins, params.width)
    if groups is None:
        relative = np.divide(error, rate, where=good & (rate > 0), out=np.full(rate.shape, np.nan))
    about: dict[str, Any] = {
        "standard": "the sample itself",
        "artificial": params.method,
        "factors": factors,
        "detector": detector_to_dict(detector),
        "wavelength_A": beam.wavelength,
        "solid_angle_sr": corrections.pixel_area(detector),
        "binning": None if scan.binning is None else scan.binning.factor,
        "median_error": float(np.nanmedian(relative[good])) if params.method == "self_flat" else 0,
        **of_groups,
    }
    standard.write_normalization(
        outputs.normalization, standard.Normalization(flat, flat * relative, bits, about)
    )
    shown = np.nan_to_num(flat)
    title = f"artificial normalisation ({params.method}) of {scan.raw}"
    plots.save(plots.pixel_mask(shown, bits, title), outputs.picture)
    known = flat[good]
    metrics = {
        "method": params.method,
        "smallest and largest response": [float(np.nanmin(known)), float(np.nanmax(known))],
        "standard deviation of the response": float(np.nanstd(known)),
        "median relative error": about["median_error"],
        **of_groups,
    }
    stage.write_json(outputs.metrics, metrics)
    print(f"warning: {DIAGNOSTIC}")


def _pixel_groups(scan: "RotationScan", params: Params) -> "PixelGroups | None":
    """Read the groups of pixels; refuse groups of another detector, and groups for `snip`."""
    from hklflow import nexus
    from hklflow.base.errors import HklflowError

    if params.pixel_groups is None:
        return None
    if params.method == "snip":
        raise HklflowError(
            "`normalization: pixel_groups` is for `artificial: self_flat`; `snip` makes one smooth "
            "background for all pixels: leave `pixel_groups` out"
        )
    groups = nexus.read_groups(params.pixel_groups).binned(scan.binning)
    rotation = scan.rotation
    groups.require(rotation.detector.shape, rotation.detector, rotation.beam)
    return groups


def _groups(
    scan: "RotationScan", number: int, threads: int
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return the counts and the monitor of each group of frames (groups, slow, fast)."""
    import numpy as np

    from hklflow.formats import raw
    from hklflow.images import masks

    n = scan.rotation.scan.n_frames
    incident = scan.monitor * scan.attenuation
    incident = incident / incident.mean()
    shape = (min(number, n), *scan.rotation.detector.shape)
    sums, light = np.zeros(shape), np.zeros(shape)
    with raw.open_scan(scan) as frames:
        limit = masks.flag_value(frames.dtype) or np.inf
        limit = min(limit, scan.saturation or np.inf)
        blocks = frames.stream(1, scan.first, scan.first + n, threads=threads)
        for i, (frame,) in enumerate(stage.progress(blocks, n, "frames of the normalisation")):
            group = i * shape[0] // n
            valid = ~masks.flagged(frame, limit, scan.underload)
            sums[group] += np.where(valid, frame, 0)
            light[group] += np.where(valid, incident[i], 0)
    return sums, light


if __name__ == "__main__":
    stage.command(main)
