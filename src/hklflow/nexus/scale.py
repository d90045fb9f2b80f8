"""Scale of the frames: the factor of the norm that depends only on the frame."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hklflow.images.frame_scale import FrameScale, Status, Transmission
from hklflow.nexus.entry import add_array, add_group, create, open_entry, text

if TYPE_CHECKING:
    from hklflow.transform.direction import Refined


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
            direction = add_group(
                data, "direction", "NXdata", signal="log", axes=["range", "slow", "fast"]
            )
            what = "logarithm of a further factor that depends on the direction"
            add_array(direction, "log", found.direction.log, "", long_name=what)
            add_array(direction, "range", np.arange(len(found.direction.log)))
            add_array(direction, "slow", found.direction.slow, "pixel")
            add_array(direction, "fast", found.direction.fast, "pixel")
            add_array(direction, "every", found.direction.every, "", description="frames a range")


def read_refined(path: Path, rotation: str) -> "Refined | None":
    """Read the correction of the scale of a rotation; None: it was not determined."""
    from hklflow.transform.direction import Direction, Refined

    with open_entry(path) as entry:
        if rotation not in text(entry["notes/rotations"]).split():
            return None
        data = entry[rotation]
        direction = data["direction"]
        return Refined(
            data["curve"][()],
            data["curve_errors"][()],
            Direction(
                int(direction["every"][()]),
                direction["slow"][()],
                direction["fast"][()],
                direction["log"][()],
            ),
        )
