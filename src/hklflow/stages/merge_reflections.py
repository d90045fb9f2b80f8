"""Merge scaled reflections to structure factors, with statistics and a test of the space group."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    scaled: Path
    """Scaled reflections of the scan."""
    orientation: Path
    """Orientation of the scan, for the cell and its errors."""


class Outputs(stage.Outputs):
    factors: Path
    """Unique reflections: intensity, amplitude, errors, multiplicity."""
    mtz: Path
    """The same reflections as MTZ."""
    hkl: Path
    """The same reflections in SHELX format HKLF 4."""
    table: Path
    """The same reflections as tab-separated text."""
    picture: Path
    """Picture: statistics by resolution, test of absences."""
    metrics: Path
    """Statistics by resolution, tests of absences and Laue group, warnings."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    space_group: str | None = None
    """Space group whose Laue group is used for merging; None: the space group of scaling."""
    d_min: float | None = Field(None, gt=0)
    """Smallest d-spacing in Å; None: all reflections."""
    shells: int = Field(10, ge=1, le=100)
    """Number of resolution shells, of equal volume, in the statistics."""
    outlier_sigma: float = Field(6.0, ge=3)
    """Limit of an outlier: deviation from its equivalents, in standard deviations. Outliers do not
    contribute to the mean.
    """
    amplitudes: Literal["french_wilson", "plain"] = "french_wilson"
    """`french_wilson`: expected |F| for non-negative intensities (French & Wilson,
    Acta Cryst. A34, 517, 1978); `plain`: root of the intensity, 0 for a negative intensity."""
    shelx: Literal["unmerged", "merged"] = "unmerged"
    """Kind of reflections in the SHELX file; SHELXL and XPREP can merge unmerged reflections
    themselves.
    """
    seed: int = Field(0, ge=0)
    """Seed of the random halves for CC1/2."""


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

    import numpy as np

    from hklflow import plots
    from hklflow.base.errors import HklflowError
    from hklflow.bragg import absences, laue, merging, shells
    from hklflow.bragg.structure_factors import Crystal
    from hklflow.formats import mtz, shelx
    from hklflow.geometry import symmetry
    from hklflow.nexus import structure_factors as files
    from hklflow.plots import structure_factors as pictures

    scaled = files.read_scaled(inputs.scaled)
    of_scaling = scaled.crystal.space_group
    orientation = stage.read_orientation(inputs.orientation)
    crystal = Crystal.of(orientation, params.space_group or of_scaling)
    group = symmetry.space_group(crystal.space_group)
    crystal = replace(crystal, space_group=group.symbol)
    everything = scaled.scaled.select(scaled.scaled.d >= (params.d_min or 0.0))
    forbidden = group.is_absent(everything.hkl)
    allowed = everything.select(~forbidden)
    if not len(allowed):
        raise HklflowError(
            f"{inputs.scaled} has {len(everything)} reflections of d_min {params.d_min or 0:g} and "
            f"more, none of which {group.symbol} allows; check space_group and d_min"
        )
    merged = merging.merge(
        allowed, crystal.cell, group, params.anomalous, params.outlier_sigma, params.amplitudes
    )
    factors = merged.factors
    table = shells.statistics(
        merged, crystal.cell, group, len(scaled.rotations), params.shells, params.seed
    )
    extinct = absences.examine(everything, group)
    symmetries = laue.examine(allowed, group)
    warnings = [*extinct.warnings, *symmetries.warnings, *merged.warnings]
    metrics = {
        "sample": crystal.sample,
        "scan": crystal.scan,
        "space group": group.symbol,
        "Laue group": group.laue,
        "Friedel mates": "apart" if params.anomalous else "merged",
        "amplitudes": params.amplitudes,
        "counters": {
            "scaled reflections": len(scaled.scaled),
            "beyond d_min": len(scaled.scaled) - len(everything),
            "systematically absent": int(forbidden.sum()),
            "outliers": int(merged.outlier.sum()),
            "merged": int(factors.mean.n.sum()),
        },
        "unique": len(factors),
        "unique that do not agree": int(np.sum(~factors.agree)),
        "overall": table.overall,
        "shells": table.rows,
        "fall-off": table.fall_off,
        "absences": extinct.to_dict(),
        "Laue groups": symmetries.to_dict(),
        "warnings": warnings,
    }
    title = f"{crystal.sample} {crystal.scan}: structure factors in {group.symbol}"
    files.write_factors(outputs.factors, factors, crystal, metrics, title)
    mtz.write_mtz(outputs.mtz, factors, crystal, group, title)
    # SHELXL and XPREP test the absences themselves and need the absent reflections.
    kept = np.ones(len(everything), dtype=np.bool_)
    kept[~forbidden] = ~merged.outlier
    wanted = everything.select(kept) if params.shelx == "unmerged" else None
    shelx.write_hklf4(
        outputs.hkl, *shelx.rows_of(factors, wanted), crystal=crystal, merged=wanted is None
    )
    files.write_table(outputs.table, factors)
    plots.save(pictures.merged(metrics, title), outputs.picture)
    stage.write_json(outputs.metrics, metrics)
    print("\n".join([shells.line(table), *warnings]))


if __name__ == "__main__":
    stage.command(main)
