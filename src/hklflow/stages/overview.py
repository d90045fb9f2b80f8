"""Gather all scans in one table and on one page, and plot the lattice against temperature."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from hklflow import stage
from hklflow.base.values import CELL_NAMES

VERSION = 8


class Inputs(stage.Inputs):
    orientations: list[Path]
    """Refined orientation of every scan."""
    metrics: list[Path]
    """Metrics of every merged volume, in the same order."""
    accepted: list[Path]
    """Verdict on the orientation of every scan, in the same order."""
    figures: list[Path] = Field(default_factory=list)
    """Metrics of all steps of all scans, with the reasons for doubtful and failed scans."""


class Outputs(stage.Outputs):
    table: Path
    """Table of all scans, tab-separated."""
    page: Path
    """Verdicts on all scans of all samples on one screen; opens in any browser."""
    series: Path
    """Picture: cell, indexed fraction and coverage against temperature."""


class Params(stage.Params):
    along: dict[str, stage.Along] = Field(default_factory=dict)
    """Axes of the series of samples that are not along temperature, with the values of the scans.
    """


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Write one row for each scan, by sample and from low to high temperature."""
    import csv

    from hklflow import plots
    from hklflow.page.experiment import render
    from hklflow.quality import verdict

    figures = _by_scan(inputs.figures)
    rows = []
    names = CELL_NAMES
    for paths in zip(inputs.orientations, inputs.metrics, inputs.accepted, strict=True):
        orientation = stage.read_orientation(paths[0])
        metrics, judged = (stage.read_json(path) for path in paths[1:])
        verdict.require(judged, paths[2])
        scan_figures = figures.get(paths[0].absolute().parts[-3:-1], [])
        level, reasons = verdict.of_scan(
            judged, ((name, stage.read_json(p)) for name, p in scan_figures)
        )
        identity = ("sample", "scan", "temperature", "parent", "space_group")
        row = {key: getattr(orientation, key) for key in identity} | {"verdict": level}
        if params.along:
            along = params.along.get(orientation.sample, stage.Along())
            value = along.placed(orientation, paths[0]).temperature
            row |= {"value": value, "axis": along.axis.label}
        row |= dict(zip(names, orientation.cell.tolist(), strict=True))
        sigma = orientation.cell_sigma.tolist()
        row |= {f"{n}_sigma": s for n, s in zip(names, sigma, strict=True)}
        row["volume"] = orientation.volume
        # The entry is None for a fixed orientation without peaks.
        entries = {
            name: float("nan") if value is None else value
            for name, value in orientation.metrics.items()
        }
        row |= {
            # Fraction in the verdict; in refinement, `hkl_tolerance` may differ between scans.
            "indexed": orientation.fraction_indexed,
            "peaks": entries["peaks"],
            "rmsd_px": entries["rmsd in pixels"],
            "rmsd_frames": entries["rmsd in frames"],
            "coverage": metrics["coverage"],
            # A single rotation cannot be compared with others.
            "rotations_chi2": metrics.get("rotations' reduced chi2 away from reflections")
            or float("nan"),
            "reasons": reasons,
            "warnings": _cell(x for x in orientation.warnings if x not in reasons),
        }
        rows.append(row)

    def place(row: dict[str, Any]) -> tuple[str, bool, float, str]:
        # Scans without a temperature follow the other scans of their sample.
        value = row.get("value", row["temperature"])
        return (row["sample"], value is None, value or 0.0, row["scan"])

    rows.sort(key=place)
    outputs.page.write_text(render(rows), encoding="utf-8")
    for row in rows:
        row["reasons"] = _cell(row["reasons"])
    with outputs.table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    quantities = {
        "a": "a (Å)",
        "c": "c (Å)",
        "indexed": "peaks indexed",
        "rmsd_px": "rmsd (pixel)",
        "rotations_chi2": "χ² between rotations",
    }
    axes = {name: along.axis for name, along in params.along.items()}
    plots.save(plots.series(rows, quantities, "all scans", axes), outputs.series)
    print(f"verdicts: {verdict.counted([row['verdict'] for row in rows])}")
    for row in rows:
        if row["verdict"] != "passed":
            print(f"{row['verdict']}: {row['sample']} {row['scan']}: {row['reasons']}")


def _by_scan(paths: Iterable[Path]) -> dict[tuple[str, ...], list[tuple[str, Path]]]:
    """Return names and paths of the metrics of each sample and scan, from their folders."""
    from hklflow.quality import verdict

    figures: dict[tuple[str, ...], list[tuple[str, Path]]] = {}
    for path in paths:
        if path.stem == "accepted":
            continue
        sample, scan_or_sample, folder = path.absolute().parts[-4:-1]
        # sample / scan / product, or sample / scan / rotation / product.
        of_scan = verdict.product_name(path.stem), path
        of_rotation = verdict.product_name(path.stem, folder), path
        figures.setdefault((scan_or_sample, folder), []).append(of_scan)
        figures.setdefault((sample, scan_or_sample), []).append(of_rotation)
    return figures


def _cell(sentences: Iterable[str]) -> str:
    """Join sentences in one cell; line breaks and tabs, which would end the cell, are removed."""
    return " | ".join(" ".join(text.split()) for text in sentences)


if __name__ == "__main__":
    stage.command(main)
