"""Scale of the frames: the factor of the norm that depends only on the frame."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.images.frame_scale import FrameScale, Status, Transmission
from hklflow.nexus.entry import add_array, add_group, create, open_entry, text

if TYPE_CHECKING:
    from hklflow.transform.absorption import Absorption
    from hklflow.transform.direction import Direction, Refined
    from hklflow.transform.shape_family import Gauge

_UNKNOWN = "unknown_shape"


def write_scale(path: Path, scale: FrameScale, rotation_angle: np.ndarray) -> None:
    """Write the scale of one rotation.

    Parameters
    ----------
    rotation_angle : (n_frames,) array
        Scan angle at mid-frame in degrees, for plots.
    """
    transmission = scale.transmission
    with create(path, "scale of the frames", "frame_scale") as entry:
        data = add_group(
            entry,
            "frame_scale",
            "NXdata",
            signal="scale",
            axes=["frame"],
            auxiliary_signals=["transmission", "ratio"],
            rotation_angle_indices=[0],
        )
        what = "transmission times the scale of the rotation; monitor and attenuation apart"
        add_array(data, "scale", scale.scale, "", long_name=f"scale ({what})")
        add_array(
            data, "transmission", transmission.transmission, "", long_name="relative transmission"
        )
        add_array(data, "transmission_errors", transmission.errors, "")
        add_array(data, "ratio", transmission.ratio, "", long_name="the frames' own values")
        meaning = ", ".join(f"{s.value} {s.name.lower()}" for s in Status)
        add_array(data, "status", transmission.status, description=meaning)
        add_array(data, "signal", scale.signal, "", long_name="counts per pixel")
        add_array(data, "monitor", scale.monitor, "")
        add_array(data, "attenuation", scale.attenuation, "")
        if scale.absorption is not None:
            what = "mean transmission of the frame by the crystal's shape; not in scale"
            add_array(data, "absorption", scale.absorption, "", long_name=what)
        add_array(data, "frame", np.arange(len(scale.scale)) + 0.5)
        add_array(data, "rotation_angle", rotation_angle, "deg")
        notes = add_group(entry, "notes", "NXcollection")
        notes["source"] = scale.source
        add_array(notes, "rotation", scale.rotation, "")
        add_array(notes, "area", scale.area, "")
        add_array(
            notes, "level", transmission.level, "", description="signal over incident intensity"
        )


def read_scale(path: Path) -> FrameScale:
    """Read the scale of one rotation."""
    with open_entry(path) as entry:
        data, notes = entry["frame_scale"], entry["notes"]
        return FrameScale(
            monitor=data["monitor"][()],
            attenuation=data["attenuation"][()],
            signal=data["signal"][()],
            transmission=Transmission(
                data["transmission"][()],
                data["transmission_errors"][()],
                data["ratio"][()],
                data["status"][()],
                float(notes["level"][()]),
            ),
            rotation=float(notes["rotation"][()]),
            area=float(notes["area"][()]),
            source=text(notes["source"]),
            absorption=data["absorption"][()] if "absorption" in data else None,
        )


def write_refined(path: Path, corrections: "dict[str, Refined]") -> None:
    """Write the corrections of the scales of a scan's rotations; those not determined are left out.

    Parameters
    ----------
    corrections : dict
        Of each rotation by its name.
    """
    default = next(iter(corrections), "notes")
    with create(path, "scale from repeated measurements", default) as entry:
        add_group(entry, "notes", "NXcollection")["rotations"] = " ".join(corrections)
        for name, found in corrections.items():
            data = add_group(entry, name, "NXdata", signal="curve", axes=["frame"])
            what = "factor by which the scale of the frame is multiplied"
            add_array(data, "curve", found.curve, "", long_name=what)
            add_array(data, "curve_errors", found.errors, "")
            add_array(data, "frame", np.arange(len(found.curve)) + 0.5)
            _add_direction(data, found.direction)


def read_refined(path: Path, rotation: str) -> "Refined | None":
    """Read the correction of the scale of a rotation; None: it was not determined."""
    from hklflow.transform.direction import Refined

    with open_entry(path) as entry:
        if rotation not in text(entry["notes/rotations"]).split():
            return None
        data = entry[rotation]
        return Refined(data["curve"][()], data["curve_errors"][()], _direction(data))


def write_absorption(
    path: Path, found: "dict[str, Absorption]", mu_error: float, size_error: float
) -> None:
    """Write the transmission by the crystal's shape of each rotation, by its name.

    Parameters
    ----------
    mu_error, size_error : float
        Relative uncertainties of the attenuation and of the size.
    """
    with create(path, "transmission by the crystal's shape", next(iter(found))) as entry:
        notes = add_group(entry, "notes", "NXcollection")
        for name, value in (("mu", mu_error), ("size", size_error)):
            add_array(notes, f"relative_error_of_{name}", value, "")
        notes["errors"] = (
            "the error of ln S at a node is relative_error_of_mu times by_mu and "
            "relative_error_of_size times by_size; each is one error, common to all voxels"
        )
        for name, one in found.items():
            data = add_group(entry, name, "NXdata", signal="curve", axes=["frame"])
            add_array(data, "curve", one.curve, "", long_name="mean transmission of the frame")
            add_array(data, "frame", np.arange(len(one.curve)) + 0.5)
            direction = _add_direction(data, one.direction)
            for key, variable in (("by_mu", "ln mu"), ("by_size", "ln size")):
                slope = getattr(one, key).astype(np.float32)
                what = f"-d ln transmission / d {variable}"
                add_array(direction, key, slope, "", long_name=what)


def write_unknown_absorption(
    path: Path, gauge: "Gauge", directions: "dict[str, Direction]", frames: dict[str, int]
) -> None:
    """Write the factor of |Q| by a crystal whose shape is not known, and its covariance.

    Parameters
    ----------
    directions, frames : dict
        Factor and number of frames of each rotation, by its name.
    """
    with create(path, "transmission by a crystal of unknown shape", _UNKNOWN) as entry:
        data = add_group(entry, _UNKNOWN, "NXdata", signal="mean", axes=["q"])
        what = "mean of ln transmission over the shapes, of which the norm has the exponential"
        add_array(data, "mean", gauge.mean, "", long_name=what)
        add_array(data, "mean_errors", gauge.sigma, "", long_name="standard uncertainty of ln S")
        what = "covariance of ln S at q, relative to the mean of S; the same for all voxels"
        add_array(data, "covariance", gauge.covariance, "", long_name=what)
        what = "standard deviation of ln S over directions of Q; cells of a sixth of the largest q"
        add_array(data, "by_direction", gauge.by_direction, "", long_name=what)
        add_array(data, "q", gauge.q, "1/angstrom")
        for name, direction in directions.items():
            group = add_group(entry, name, "NXdata", signal="curve", axes=["frame"])
            add_array(group, "curve", np.ones(frames[name]), "", long_name="1 for each frame")
            add_array(group, "frame", np.arange(frames[name]) + 0.5)
            _add_direction(group, direction)


def absorption_correction(path: Path) -> str:
    """Return what the product of `absorption` corrects for."""
    with open_entry(path) as entry:
        return "mean absorption of unknown shapes" if _UNKNOWN in entry else "absorption by shape"


def read_absorption(path: Path, rotation: str) -> "tuple[np.ndarray, Direction]":
    """Read the mean transmission of each frame (n_frames,), and its factor of the direction.

    Raises
    ------
    HklflowError
        If the file is for other rotations.
    """
    with open_entry(path) as entry:
        if rotation not in entry:
            raise HklflowError(f"{path} has no rotation {rotation}; run absorption again")
        return entry[rotation]["curve"][()], _direction(entry[rotation])


def _add_direction(data: Any, factor: "Direction") -> Any:
    """Add a group with the factor of the direction."""
    direction = add_group(data, "direction", "NXdata", signal="log", axes=["range", "slow", "fast"])
    what = "logarithm of a further factor that depends on the direction"
    add_array(direction, "log", factor.log, "", long_name=what)
    add_array(direction, "range", np.arange(len(factor.log)))
    add_array(direction, "slow", factor.slow, "pixel")
    add_array(direction, "fast", factor.fast, "pixel")
    add_array(direction, "every", factor.every, "", description="frames a range")
    return direction


def _direction(data: Any) -> "Direction":
    from hklflow.transform.direction import Direction

    group = data["direction"]
    return Direction(
        int(group["every"][()]), group["slow"][()], group["fast"][()], group["log"][()]
    )
