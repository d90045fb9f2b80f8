"""Backgrounds of one rotation: measured without the crystal, or bounded by the rotations."""

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from hklflow.base.errors import HklflowError
from hklflow.images.surrounded import Surroundings
from hklflow.images.surroundings import Part, Rings
from hklflow.nexus.entry import add_array, add_group, create, open_entry, text

if TYPE_CHECKING:
    from hklflow.transform.unmeasured_bounds import Bounds


def write_background(
    path: Path, parts: list[Part], rings: Rings, surroundings: Surroundings | None
) -> None:
    """Write images and factors of the backgrounds, and the comparison with the crystal's frames.

    Parameters
    ----------
    surroundings : Surroundings or None
        Their counts in the signal of `frame_scale`; None if there is no such signal.
    """
    with create(path, "background without the crystal", "radial") as entry:
        radial = add_group(
            entry,
            "radial",
            "NXdata",
            signal="measured",
            axes=["q"],
            auxiliary_signals=["background"],
        )
        what = "mean counts of a pixel and frame"
        add_array(radial, "measured", rings.measured, "counts", long_name=f"{what}, measured")
        add_array(radial, "measured_errors", rings.measured_error, "counts")
        add_array(radial, "background", rings.background, "counts", long_name=f"{what}, expected")
        add_array(
            radial,
            "background_errors",
            rings.noise,
            "counts",
            description="by the noise of the runs; the same for all frames of the crystal",
        )
        add_array(
            radial,
            "level_errors",
            rings.level,
            "counts",
            description="by the errors of the levels of the runs, common to all shells",
        )
        add_array(radial, "pixels", rings.pixels)
        add_array(radial, "q", rings.q, "1/angstrom")
        _write_parts(entry, parts)
        if surroundings is None:
            return
        group = add_group(entry, "signal", "NXdata", signal="level", axes=["frame"])
        group["title"] = "counts per pixel of the backgrounds, for an incident intensity of 1"
        add_array(group, "level", surroundings.level, "", long_name="in the signal of the scale")
        add_array(group, "annulus", surroundings.annulus, "", long_name="between the peaks")
        add_array(group, "parts", surroundings.parts, "", long_name="in parts of the detector")
        add_array(group, "frame", np.arange(len(surroundings.level)) + 0.5)
        what = "standard error of the part of level that does not pass through the crystal"
        add_array(group, "direct_error", surroundings.direct_error, "", description=what)


def read_surroundings(path: Path) -> Surroundings:
    """Read the counts of the backgrounds in the signal of `frame_scale`.

    Raises
    ------
    HklflowError
        If the file has none.
    """
    with open_entry(path) as entry:
        if "signal" not in entry:
            raise HklflowError(
                f"{path} was made with `frame_scale: {{source: none}}` or by an older hklflow; run "
                "`background` again"
            )
        group = entry["signal"]
        level, annulus, parts = (group[name][()] for name in ("level", "annulus", "parts"))
        return Surroundings(level, annulus, parts, float(group["direct_error"][()]))


def write_unmeasured(path: Path, parts: list[Part], bounds: "Bounds | None") -> None:
    """Write what is subtracted without a measurement, and the interval of the isotropic part."""
    title = "background that was not measured"
    with create(path, title, "isotropic" if bounds else "part1") as entry:
        if bounds is not None:
            group = add_group(
                entry, "isotropic", "NXdata", signal="level", axes=["q"],
                auxiliary_signals=["low", "high"],
            )  # fmt: skip
            what = "isotropic background, mean of a shell, in units of S"
            add_array(group, "level", bounds.level, "", long_name="level between the reflections")
            add_array(group, "low", bounds.low, "", long_name=f"least {what}")
            add_array(group, "high", bounds.high, "", long_name=f"largest {what}")
            add_array(group, "q", (bounds.edges[:-1] + bounds.edges[1:]) / 2, "1/angstrom")
            add_array(group, "edges", bounds.edges, "1/angstrom")
        _write_parts(entry, parts)


def _write_parts(entry: h5py.Group, parts: list[Part]) -> None:
    """Write the images of the backgrounds and their factors."""
    for i, part in enumerate(parts):
        group = add_group(entry, f"part{i + 1}", "NXdata", signal="level", axes=["slow", "fast"])
        group["title"] = part.name
        unit = "counts for an incident intensity of 1"
        add_array(group, "level", part.level, "", long_name=f"{part.name} ({unit})")
        add_array(group, "variance", part.variance, "")
        add_array(group, "slow", np.arange(part.level.shape[0]) + 0.5, "pixel")
        add_array(group, "fast", np.arange(part.level.shape[1]) + 0.5, "pixel")
        of_all = part.factor.ndim == 0
        factors = (
            add_group(entry, f"factor{i + 1}", "NXdata", signal="factor")
            if of_all
            else add_group(entry, f"factor{i + 1}", "NXdata", signal="factor", axes=["frame"])
        )
        add_array(factors, "factor", part.factor, "", long_name=f"factor of {part.name}")
        if not of_all:
            add_array(factors, "frame", np.arange(len(part.factor)) + 0.5)
        add_array(
            factors,
            "level_error",
            part.error,
            "",
            description="relative error of the background, common to all pixels and frames",
        )


def read_background(path: Path) -> list[Part]:
    """Read the backgrounds of a rotation; a factor without frames is that of all."""
    parts: list[Part] = []
    with open_entry(path) as entry:
        while f"part{len(parts) + 1}" in entry:
            image = entry[f"part{len(parts) + 1}"]
            factors = entry[f"factor{len(parts) + 1}"]
            parts.append(
                Part(
                    text(image["title"]),
                    image["level"][()],
                    image["variance"][()],
                    factors["factor"][()],
                    float(factors["level_error"][()]),
                )
            )
    return parts
