"""Table and records of the fits of diffuse features."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hklflow.base.axis import TEMPERATURE, Axis
from hklflow.quality.feature_words import Course
from hklflow.series.feature_copies import Axes, Copy, Feature
from hklflow.series.resolution import Resolution


@dataclass(frozen=True)
class Fitted:
    """Fits of one feature in the scans of one parent, from cold to warm."""

    parent: str
    feature: Feature
    axes: Axes
    copies: list[Copy]
    scans: list[str]
    course: Course
    resolutions: list[Resolution]


def write_table(path: Path, fits: Sequence[Fitted], along: Axis = TEMPERATURE) -> None:
    """Write a row for each feature, scan and axis."""
    columns = ["parent", "feature", "scan", along.name, "seen", "intensity", "intensity_sigma"]
    columns += ["dh", "dk", "dl", "dh_sigma", "dk_sigma", "dl_sigma"]
    columns += ["axis", "xi", "xi_68_low", "xi_68_high", "xi_95_low", "xi_95_high", "determined"]
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        for fit in fits:
            course = fit.course
            for i, one in enumerate(course.fits):
                if one is None:
                    continue
                values = (course.temperatures[i], course.intensity[i], course.intensity_sigma[i])
                t, size, sigma = (f"{x:.6g}" for x in values)
                row = [fit.parent, fit.feature.name, fit.scans[i], t, one.seen, size, sigma]
                row += [f"{x:.6g}" for x in (*one.shift, *one.shift_sigma)]
                for axis, xi, known in zip(fit.axes.names, one.xi, one.determined, strict=False):
                    numbers = [f"{x:.6g}" for x in (xi.value, *xi.inner, *xi.outer)]
                    writer.writerow([*row, axis, *numbers, known])
                if not one.seen:
                    writer.writerow([*row, "", *["nan"] * 5, ""])


def record(fit: Fitted, along: Axis = TEMPERATURE) -> dict[str, Any]:
    """Return the numbers of one feature for the JSON file."""
    course = fit.course
    rows: list[dict[str, Any]] = []
    for i, one in enumerate(course.fits):
        row: dict[str, Any] = {"scan": fit.scans[i], along.label: course.temperatures[i]}
        if one is not None:
            row |= {
                "seen": one.seen,
                "chi2 that the feature takes away": one.gain,
                "intensity": course.intensity[i],
                "intensity sigma": course.intensity_sigma[i],
                "intensity of each copy, without scale": one.amplitude,
                "shift (r.l.u.)": one.shift,
                "shift sigma (r.l.u.)": one.shift_sigma,
                "correlation lengths (Å)": {
                    axis: {
                        "value": xi.value,
                        "sigma": xi.sigma,
                        "68 %": xi.inner,
                        "95 %": xi.outer,
                        "limits (95 %, one-sided)": xi.limit,
                        "determined": known,
                    }
                    for axis, xi, known in zip(fit.axes.names, one.xi, one.determined, strict=False)
                },
                "covariance of ln xi": one.covariance,
                "line shape": one.model,
                "chi2 of the other line shape, more": one.other,
                "chi2 / degrees of freedom": one.chi2 / one.freedom,
                "factor of all variances": one.inflation,
            }
        resolution = fit.resolutions[i]
        row["resolution at Q = 0, sigma (r.l.u.)"] = np.sqrt(np.diag(resolution.covariance))
        row["resolution, growth with Q^2 (Å^2)"] = resolution.growth
        row["resolution, relative scatter"] = resolution.scatter
        row["resolution, reflections"] = resolution.reflections
        rows.append(row)
    return {
        "name": fit.feature.name,
        "parent": fit.parent,
        "shape": fit.feature.shape,
        "point": fit.feature.point,
        "direction": fit.feature.direction,
        "copies": [copy.centre for copy in fit.copies],
        "scans": rows,
    }
