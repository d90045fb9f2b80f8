"""Collect the merged intensities of all scans of a sample: I(hkl, T).

Intensities have the unit of S; monitor, attenuators and frame scales are already applied. The
column ``scale`` compares a whole scan with its parent,
``I / I_parent = scale · exp(-2 ΔB (sin θ / λ)²)``; it is not applied.
"""

from pathlib import Path

from pydantic import Field

from hklflow import stage

VERSION = 2


class Inputs(stage.Inputs):
    factors: list[Path]
    """Structure factors of every scan of the sample."""


class Outputs(stage.Outputs):
    table: Path
    """Table, tab-separated: one row for each reflection and scan."""
    series: Path
    """Intensity of every reflection against temperature."""
    picture: Path
    """Picture: the reflections that differ most from the change that all share."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    shown: int = Field(12, ge=1, le=60)
    """Number of reflections in the picture."""


class Params(Settings):
    """Settings, and the axis of the series."""

    along: stage.Along = stage.Along()
    """Axis of the series, with the values of the scans."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Read the intensities, align the scans and write the table."""
    from hklflow import plots
    from hklflow.bragg import series
    from hklflow.nexus import structure_factors as files
    from hklflow.plots import structure_factors as pictures

    scans = [files.read_factors(path) for path in inputs.factors]
    axis = params.along.axis
    crystals = [
        params.along.placed(scan.crystal, path)
        for scan, path in zip(scans, inputs.factors, strict=True)
    ]
    aligned = series.line_up(
        [(crystal, scan.factors) for crystal, scan in zip(crystals, scans, strict=True)]
    )
    files.write_intensity_table(outputs.table, aligned, axis)
    title = f"{scans[0].crystal.sample}: Bragg intensities against {axis.name}"
    files.write_intensities(outputs.series, aligned, title, axis)
    plots.save(pictures.changes(aligned, params.shown, title, axis), outputs.picture)
    print(
        f"{len(aligned.hkl)} reflections in {len(scans)} scans"
        + "".join(f"; {note}" for note in aligned.notes)
    )


if __name__ == "__main__":
    stage.command(main)
