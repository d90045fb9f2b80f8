"""Merge scaled reflections to structure factors, with statistics and a test of the space group."""

from pathlib import Path

from hklflow import stage
from hklflow.stage.merged_files import MergedFiles
from hklflow.stage.reflection_settings import MergingSettings

VERSION = 1


class Inputs(stage.Inputs):
    scaled: Path
    """Scaled reflections of the scan."""
    orientation: Path
    """Orientation of the scan, for the cell and its errors."""


class Outputs(MergedFiles):
    picture: Path
    """Picture: statistics by resolution, test of absences."""
    metrics: Path
    """Statistics by resolution, tests of absences and Laue group, warnings."""


class Settings(MergingSettings):
    """Settings of this stage in the configuration file."""


class Params(Settings):
    """Settings of the stage, and the treatment of Friedel mates in scaling."""

    anomalous: bool = False
    """List Friedel mates also separately, and treat them as not equivalent in the statistics. The
    value must be the same as in scaling: otherwise scaling takes the differences of Friedel mates
    for errors.
    """


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Merge the reflections, test the space group and write the results."""
    from dataclasses import replace

    from hklflow import plots
    from hklflow.bragg import shells
    from hklflow.bragg.structure_factors import Crystal
    from hklflow.geometry import symmetry
    from hklflow.nexus import structure_factors as files
    from hklflow.plots import structure_factors as pictures
    from hklflow.stage.merged_files import merge_scaled

    file = files.read_scaled(inputs.scaled)
    orientation = stage.read_orientation(inputs.orientation)
    crystal = Crystal.of(orientation, params.space_group or file.crystal.space_group)
    group = symmetry.space_group(crystal.space_group)
    crystal = replace(crystal, space_group=group.symbol)
    merged = merge_scaled(
        file.scaled,
        crystal,
        len(file.rotations),
        params,
        anomalous=params.anomalous,
        source=str(inputs.scaled),
    )
    title = f"{crystal.sample} {crystal.scan}: structure factors in {group.symbol}"
    merged.write(outputs, title, shelx=params.shelx)
    plots.save(pictures.merged(merged.metrics, title), outputs.picture)
    stage.write_json(outputs.metrics, merged.metrics)
    print("\n".join([shells.line(merged.table), *merged.metrics["warnings"]]))


if __name__ == "__main__":
    stage.command(main)
