"""NeXus file of the indexed still frames of one batch."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hklflow.bragg.still_scaling import StillScaling
from hklflow.bragg.stills import StillFrames, Stills, StillSpots
from hklflow.geometry import Beam, detector_from_dict, detector_to_dict
from hklflow.nexus.entry import add_array, add_group, create, open_entry, text

FRAME_COLUMNS = (
    *("frame", "used", "reason", "spots", "on lattice", "rmsd (pixels)"),
    *("scale", "B (Å²)", "correlation", "rotated (degrees)"),
)
"""Columns of the table of frames."""
_UNITS = {"slow": "pixel", "fast": "pixel", "rmsd": "pixel", "ub": "1/angstrom"}


def write_stills(path: Path, stills: Stills, rejected: Mapping[int, str], title: str) -> None:
    """Write the frames of one batch, and the reason why each other frame is missing."""
    with create(path, title, "picture") as entry:
        _write_columns(add_group(entry, "frames", "NXcollection"), stills.frames)
        _write_columns(add_group(entry, "spots", "NXreflections"), stills.spots)
        _write_columns(add_group(entry, "reflections", "NXreflections"), stills.reflections)
        about = add_group(entry, "about", "NXcollection")
        about["detector"] = json.dumps(_plain(detector_to_dict(stills.detector)))
        about["wavelength"] = stills.beam.wavelength
        about["wavelength"].attrs["units"] = "angstrom"
        about["polarization"] = stills.beam.polarization
        add_array(about, "cell", stills.cell)
        about["space_group"] = stills.space_group
        if stills.bad is not None:
            add_array(about, "bad", stills.bad.astype(np.uint8))
        about["rejected"] = json.dumps({str(key): value for key, value in rejected.items()})
        picture = add_group(entry, "picture", "NXdata", signal="indexed", axes=["number"])
        picture["title"] = title
        add_array(picture, "indexed", stills.frames.indexed, long_name="indexed spots")
        add_array(picture, "number", stills.frames.number, long_name="frame")


def write_frames(
    path: Path, frames: StillFrames, scaling: StillScaling, rejected: Mapping[int, str]
) -> None:
    """Write a text table of all frames: used or not and why, spots, scale and correlation."""
    rows: list[tuple[int, list[str]]] = [
        (number, ["no", reason, *[""] * 7]) for number, reason in rejected.items()
    ]
    for i, number in enumerate(frames.number.tolist()):
        used = bool(scaling.used[i])
        values = [
            "yes" if used else "no",
            "" if used else "does not agree with the other frames",
            str(frames.spots[i]),
            str(frames.indexed[i]),
            *(
                f"{column[i]:.4g}"
                for column in (
                    frames.rmsd,
                    scaling.scale,
                    scaling.decay,
                    scaling.correlation,
                    scaling.rotated,
                )
            ),
        ]
        rows.append((number, values))
    with path.open("w", encoding="utf-8") as file:
        print(*FRAME_COLUMNS, sep="\t", file=file)
        for number, values in sorted(rows):
            print(number, *values, sep="\t", file=file)


def _write_columns(group: h5py.Group, table: StillFrames | StillSpots) -> None:
    for column in fields(table):
        add_array(group, column.name, getattr(table, column.name), _UNITS.get(column.name))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def read_stills(path: Path) -> tuple[Stills, dict[int, str]]:
    """Read the frames of one batch, and the reasons why frames are missing."""
    with open_entry(path) as entry:
        frames = StillFrames(**{c.name: entry["frames"][c.name][()] for c in fields(StillFrames)})
        spots, reflections = (
            StillSpots(**{c.name: entry[name][c.name][()] for c in fields(StillSpots)})
            for name in ("spots", "reflections")
        )
        about = entry["about"]
        rejected = json.loads(text(about["rejected"]))
        stills = Stills(
            frames,
            spots,
            reflections,
            detector_from_dict(json.loads(text(about["detector"]))),
            Beam(float(about["wavelength"][()]), float(about["polarization"][()])),
            tuple(float(x) for x in np.asarray(about["cell"])),
            text(about["space_group"]),
            about["bad"][()] != 0 if "bad" in about else None,
        )
    return stills, {int(key): str(value) for key, value in rejected.items()}
