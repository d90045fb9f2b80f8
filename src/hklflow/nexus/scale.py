"""Scale of the frames: the factor of the norm that depends only on the frame."""

from pathlib import Path

import numpy as np

from hklflow.images.frame_scale import FrameScale, Status, Transmission
from hklflow.nexus.entry import add_array, add_group, create, open_entry, text


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
