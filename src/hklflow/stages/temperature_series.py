"""Collect the scans of one sample against temperature: cell, mosaic width, scale, transitions.

Along another axis (field, pressure, strain, time) its values are in the place of temperatures, and
the cell is compared with smooth curves instead of thermal expansion.
Scale and Debye-Waller difference (``I / I_parent = scale · exp(-2 ΔB sin²θ/λ²)``) are relative to
the parent of the scan (column ``reference``). Scans of different parents are not compared: the
settings of their cells may differ, so that their indices are not the same. The standard deviations
of the cell are without the error of the detector and heads that the scans of a parent share.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow import stage
from hklflow.base.values import CELL_NAMES

if TYPE_CHECKING:
    from hklflow.base.axis import Axis
    from hklflow.geometry import Rotation
    from hklflow.orientation.product import Orientation
    from hklflow.orientation.series import Departure, Floats, Reflections

VERSION = 5

# rad; goniometer settings with a smaller difference (after small corrections) are equal
_SETTING = 0.02
_PLACE = 0.02  # detector positions with a smaller difference, relative to the distance, are equal


class Inputs(stage.Inputs):
    orientations: list[Path]
    """Refined orientation of every scan of the sample."""
    peaks: list[Path]
    """Peak tables of all rotations, scan by scan; within a scan in the order of the orientation
    file.
    """
    scales: list[Path]
    """Scales of the frames of all rotations, in the same order as the peak tables."""


class Outputs(stage.Outputs):
    table: Path
    """Table of all quantities, tab-separated."""
    series: Path
    """All quantities with errors against temperature."""
    picture: Path
    """Picture: all quantities with errors against temperature."""
    findings: Path
    """Findings in sentences, and the temperatures of possible transitions."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""


class Params(Settings):
    """Settings, and the axis of the series."""

    along: stage.Along = stage.Along()
    """Axis of the series, with the values of the scans."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Write one row for each scan, from high to low temperature; else in ascending order."""
    import csv

    from hklflow import nexus, plots
    from hklflow.nexus import Quantity

    axis = params.along.axis
    scans = params.along.read(inputs.orientations)
    observed = _observed(scans, inputs)
    by_name = {scan.scan: scan for scan in scans}
    rows = [_row(scan, by_name, observed, inputs.orientations) for scan in scans]
    # Scans without a temperature come last; scans at equal temperature are in the order of names.
    sign = -1.0 if axis.is_temperature else 1.0
    rows.sort(key=lambda r: (r["temperature"] is None, sign * (r["temperature"] or 0), r["scan"]))
    transitions = _transitions(rows) if axis.is_temperature else []
    sample = scans[0].sample

    with outputs.table.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([axis.name if name == "temperature" else name for name in rows[0]])
        for row in rows:
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in row.values()])
    quantities = {
        **{name: Quantity(f"{name} (Å)", "angstrom") for name in CELL_NAMES[:3]},
        **{name: Quantity(f"{name} (°)", "degree") for name in CELL_NAMES[3:]},
        "volume": Quantity("volume (Å³)", "angstrom^3"),
        "mosaic": Quantity("rocking width (°)", "degree"),
        "indexed": Quantity("peaks indexed", ""),
        "scale": Quantity("scale to the parent", ""),
        "debye_waller": Quantity("B - B(parent) (Å²)", "angstrom^2"),
    }
    title = f"{sample} against {axis.name}"
    nexus.write_series(outputs.series, title, rows, quantities, axis)
    shown = {
        name: quantity.label for name, quantity in quantities.items() if not _implied(name, rows)
    }
    bands = [(t["warmer"], t["colder"]) for t in transitions]
    plots.save(plots.temperature_series(rows, shown, bands, title, axis), outputs.picture)
    sentences = _sentences(scans, rows, transitions) + _unlike_scales(scans, inputs)
    expansions = [x for parent in by_name if (x := _expansion(parent, scans, axis)) is not None]
    if not axis.is_temperature:
        sentences = _untested(scans, expansions, axis) + sentences
    stage.write_json(
        outputs.findings,
        {
            "sample": sample,
            "sentences": sentences,
            "commands": _commands(sentences, scans, inputs),
            "transitions": transitions,
            "expansions": expansions,
        },
    )
    facts = [text for found in expansions for text in found["sentences"]]
    print("\n".join([f"{sample}: {len(rows)} scans", *facts, *sentences]))


def _untested(
    scans: "Sequence[Orientation]", expansions: Sequence[Mapping[str, Any]], axis: "Axis"
) -> list[str]:
    """Return a sentence for each parent whose cell is not tested for a transition."""
    from hklflow.bragg import expansion

    tested = {row["parent"] for row in expansions}
    values: dict[str, set[float | None]] = {}
    for scan in scans:
        values.setdefault(scan.parent, set()).add(scan.temperature)
    return [
        f"the cell of parent {parent} is not tested for a transition along {axis.name}: this needs "
        f"{expansion.FEWEST} {axis.plural} with a refined cell, and there are {len(found)} in all"
        for parent, found in values.items()
        if parent not in tested and len(found) > 1
    ]


def _expansion(parent: str, scans: "Sequence[Orientation]", axis: "Axis") -> dict[str, Any] | None:
    """Return the change of the cell of a parent, and its transition, with sentences."""
    import numpy as np

    from hklflow.bragg import expansion
    from hklflow.quality import expansion_words

    refined = [x for x in scans if x.parent == parent and x.temperature is not None]
    # A cell that was not refined has no errors.
    refined = [x for x in refined if np.any(x.own_cell_sigma > 0)]
    if len({scan.temperature for scan in refined}) < expansion.FEWEST:
        return None
    # The warmest scan, or the first along another axis.
    reference, _ = axis.ends(sorted(refined, key=lambda scan: scan.temperature or 0.0))
    fitted = expansion.fit(
        np.array([scan.temperature for scan in refined], dtype=np.float64),
        np.array([scan.cell for scan in refined]),
        # The error of the detector is common to the scans of a parent.
        np.array([scan.cell_covariance - scan.inherited.cell for scan in refined]),
        reference.cell,
        axis,
    )
    if fitted is None:
        return None
    per = f"(1/{axis.unit})"
    spontaneous = {
        "spontaneous strain at the lowest temperature": fitted.strain.tolist(),
        "covariance of the spontaneous strain": fitted.strain_covariance.tolist(),
    }
    return {
        "parent": parent,
        "reference": reference.scan,
        "components": ["xx", "yy", "zz", "yz", "xz", "xy"],
        "axes": "x along a*, z along c",
        axis.values: fitted.temperature.tolist(),
        f"expansion {per}": fitted.alpha.tolist(),
        f"sigma of the expansion {per}": fitted.alpha_sigma.tolist(),
        f"mean expansion {per}": fitted.mean.tolist(),
        "covariance of the mean expansion": fitted.mean_covariance.tolist(),
        "ln likelihood ratio of a transition": fitted.ratio,
        axis.onset_key: None if fitted.t_c is None else fitted.t_c.to_dict(),
        **(spontaneous if axis.is_temperature else {}),
        "errors of the cells times": fitted.factor,
        "sentences": expansion_words.sentences(parent, fitted, reference.cell.tolist(), axis),
    }


def _observed(
    scans: "Sequence[Orientation]", inputs: Inputs
) -> dict[str, dict[str, "Reflections"]]:
    """Return the reflections of each rotation of each scan."""
    from hklflow import nexus
    from hklflow.base.errors import HklflowError
    from hklflow.orientation import series

    expected = sum(len(scan.rotations) for scan in scans)
    if not len(inputs.peaks) == len(inputs.scales) == expected:
        raise HklflowError(
            f"the {len(scans)} orientations have {expected} rotations, but there are "
            f"{len(inputs.peaks)} peak tables and {len(inputs.scales)} scales; give one of each "
            "for every rotation"
        )
    files = zip(inputs.peaks, inputs.scales, strict=True)
    found: dict[str, dict[str, Reflections]] = {}
    for scan in scans:
        if scan.sample != scans[0].sample or scan.scan in found:
            raise HklflowError(
                f"scan {scan.scan} of {scan.sample} is given twice or does not belong to the "
                f"series of {scans[0].sample}; give each scan of one sample once"
            )
        found[scan.scan] = {}
        for name, rotation in scan.rotations.items():
            peaks, scale = next(files)
            found[scan.scan][name] = series.reflections(
                rotation,
                scan.ub,
                nexus.read_peaks(peaks),
                _frame_norm(scale, rotation),
            )
    return found


def _unlike_scales(scans: "Sequence[Orientation]", inputs: Inputs) -> list[str]:
    """Return a sentence if only some scans have the absorption by shape in their scales."""
    from hklflow import nexus
    from hklflow.nexus.volume import only_some

    files, corrections = iter(inputs.scales), {}
    for scan in scans:
        means = [nexus.read_scale(next(files)).absorption for _ in scan.rotations]
        # The mean of a frame is 1 if the shape is not known.
        shaped = any(mean is not None and (mean != 1).any() for mean in means)
        corrections[scan.scan] = ["absorption by shape"] if shaped else []
    return only_some(corrections, "the scale to the parent, and of Bragg intensities,")


def _frame_norm(path: Path, rotation: "Rotation") -> "Floats":
    """Return the divisor of the counts of each frame (n_frames,), for equal solid angles."""
    from hklflow import nexus
    from hklflow.stage.norms import frame_norm

    return frame_norm(nexus.read_scale(path), rotation, path)


def _comparable(scan: "Orientation", parent: "Orientation") -> set[str]:
    """Return the rotations with the same goniometer setting and detector position in both scans.

    In these rotations a reflection has the same position on the detector, the same polarisation and
    the same path in the sample.
    """
    import numpy as np

    from hklflow.geometry.parameters import without_head

    alike = set()
    for name in set(scan.rotations) & set(parent.rotations):
        ours, theirs = scan.rotations[name], parent.rotations[name]
        a, b = without_head(ours.goniometer), without_head(theirs.goniometer)
        if a.names != b.names or a.scan != b.scan:
            continue
        fixed = np.arange(len(a.names)) != a.scan
        turned = float(np.abs(a.angles - b.angles)[fixed].max(initial=0.0))
        moved = float(np.linalg.norm(ours.detector.origin - theirs.detector.origin))
        if turned < _SETTING and moved < _PLACE * float(np.linalg.norm(theirs.detector.origin)):
            alike.add(name)
    return alike


def _row(
    scan: "Orientation",
    scans: "Mapping[str, Orientation]",
    observed: Mapping[str, Mapping[str, "Reflections"]],
    files: Sequence[Path],
) -> dict[str, Any]:
    """Return all quantities of one scan."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.geometry import lattice
    from hklflow.orientation import series

    name, parent, metrics = scan.scan, scan.parent, scan.metrics
    if parent not in observed:
        raise HklflowError(
            f"the parent {parent} of {name} is not among the {len(observed)} orientations; add its "
            f"file to --orientations (in addition to {files[0]})"
        )
    mosaic = series.mosaic_width(list(observed[name].values()))
    if name == parent:
        relative = series.RelativeScale(1.0, 0.0, 0.0, 0.0, 0.0, 0)
    else:
        alike = _comparable(scan, scans[parent])
        ours, theirs = (
            {key: found for key, found in observed[x].items() if key in alike}
            for x in (name, parent)
        )
        relative = series.relative_scale(ours, theirs)
    row: dict[str, Any] = {
        "scan": name,
        "temperature": scan.temperature,
        "parent": parent,
        "reference": parent,
        "space_group": scan.space_group,
    }
    # The error of the detector is common to the scans of a parent; the trend does not show it.
    own_covariance = scan.cell_covariance - scan.inherited.cell
    cell = zip(CELL_NAMES, scan.cell.tolist(), scan.own_cell_sigma.tolist(), strict=True)
    for key, value, sigma in cell:
        row |= {key: value, f"{key}_sigma": sigma}
    return row | {
        "volume": scan.volume,
        "volume_sigma": lattice.volume_sigma(scan.cell, own_covariance),
        "mosaic": float(np.degrees(mosaic.value)),
        "mosaic_sigma": float(np.degrees(mosaic.sigma)),
        "mosaic_reflections": mosaic.n,
        "indexed": scan.fraction_indexed,
        "indexed_sigma": series.fraction_sigma(scan.fraction_indexed, metrics["peaks"]),
        "peaks": metrics["peaks"],
        "scale": relative.scale,
        "scale_sigma": relative.scale_sigma,
        "debye_waller": relative.debye_waller,
        "debye_waller_sigma": relative.debye_waller_sigma,
        "common_reflections": relative.n,
    }


def _implied(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if symmetry fixes a quantity, or makes it equal to an earlier quantity."""
    if name in CELL_NAMES and all(row[f"{name}_sigma"] == 0 for row in rows):
        return True
    kind = CELL_NAMES[:3] if name in CELL_NAMES[:3] else CELL_NAMES[3:]
    before = kind[: kind.index(name)] if name in kind else ()
    return any(all(row[name] == row[other] for row in rows) for other in before)


def _transitions(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return pairs of temperatures between which the cell departs from its trend, by parent."""
    import math

    from hklflow.orientation import series

    found: dict[tuple[str, float, float], dict[str, Departure]] = {}
    for parent in dict.fromkeys(row["parent"] for row in rows):
        mine = [r for r in rows if r["parent"] == parent and r["temperature"] is not None]
        if not mine:
            continue
        for name in (*CELL_NAMES, "volume"):
            sigma = [row[f"{name}_sigma"] for row in mine]
            known = [value for value in sigma if value > 0]
            if _implied(name, mine) or not known:
                continue
            # σ is 0 if symmetry fixes the value; a colder scan may be refined without this
            # symmetry.
            sigma = [value if value > 0 else min(known) for value in sigma]
            unit = 180 / math.pi if name in CELL_NAMES[3:] else mine[0][name]
            departures = series.departures(
                [row["temperature"] for row in mine],
                [row[name] for row in mine],
                sigma,
                3 * unit if name == "volume" else unit,
            )
            for departure in departures:
                key = (parent, departure.warmer, departure.colder)
                found.setdefault(key, {})[name] = departure
    return [
        {
            "parent": parent,
            "warmer": warmer,
            "colder": colder,
            "departures": {
                name: {"deviation": d.deviation, "sigma": d.sigma, "strain": d.strain}
                for name, d in departures.items()
            },
        }
        for (parent, warmer, colder), departures in sorted(found.items(), key=lambda f: -f[0][1])
    ]


def _sentences(
    scans: "Sequence[Orientation]",
    rows: Sequence[Mapping[str, Any]],
    transitions: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Return the findings as sentences: first for the series, then for its scans."""
    units = (
        dict.fromkeys(CELL_NAMES[:3], "Å") | dict.fromkeys(CELL_NAMES[3:], "°") | {"volume": "Å³"}
    )
    told = []
    for found in transitions:
        parts = ", ".join(
            f"{name} by {d['deviation']:+.3g} ± {d['sigma']:.1g} {units[name]}"
            for name, d in found["departures"].items()
        )
        told.append(
            f"between {found['warmer']:g} K and {found['colder']:g} K the cell departs from the "
            f"trend of the warmer scans of parent {found['parent']} ({parts}), which may be a "
            f"phase transition; consider a new parent from {found['colder']:g} K down"
        )
    told += [
        f"{row['scan']} has no temperature: it is in the table, but not in the plots"
        for row in rows
        if row["temperature"] is None
    ]
    narrow = [row for row in rows if row["mosaic"] != row["mosaic"]]
    if narrow:
        numbers = [row["mosaic_reflections"] for row in narrow]
        of = f"{min(numbers)} to {max(numbers)}" if len(set(numbers)) > 1 else f"{numbers[0]}"
        told.append(
            f"{', '.join(row['scan'] for row in narrow)}: no rocking width, because too few of the "
            f"{of} strong reflections extend over more than one frame"
        )
    for row in rows:
        if row["scale"] != row["scale"]:
            told.append(
                f"{row['scan']}: no scale, because it has only {row['common_reflections']} "
                f"reflections in common with its parent {row['parent']} at the same goniometer "
                "settings; ten are needed"
            )
    by_name = {scan.scan: scan for scan in scans}
    for name in (row["scan"] for row in rows):
        # Only some sentences name the scan, outside the settings to paste.
        told += [
            text if name in re.sub("`[^`]*`", "", text) else f"{name}: {text}"
            for text in by_name[name].warnings
        ]
    return told


def _commands(
    sentences: Sequence[str], scans: "Sequence[Orientation]", inputs: Inputs
) -> dict[str, str]:
    """Return the command that shows it for each sentence on the refinement of one scan."""
    commands = {}
    for scan, path in zip(scans, inputs.orientations, strict=True):
        for sentence in sentences:
            warning = next((x for x in scan.warnings if sentence.endswith(x)), None)
            if warning is None or not re.search(rf"\b{re.escape(scan.scan)}\b", sentence):
                continue
            # The numbers of the sentence: a list of records, or the propagation vectors.
            places = (
                key
                for key, records in scan.figures.items()
                if isinstance(records, list)
                and any(isinstance(x, dict) and x.get("sentence") == warning for x in records)
            )
            vectors = "offsets" if "from reflections (" in warning else "misfit"
            commands[sentence] = f"hklflow show {path}/symmetry/{next(places, vectors)}"
    return commands


if __name__ == "__main__":
    stage.command(main)
