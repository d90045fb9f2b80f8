"""Merge scaled reflections to structure factors, with statistics and a test of the space group."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.bragg.merging import Merged
    from hklflow.bragg.structure_factors import Crystal, Scaled
    from hklflow.geometry.symmetry import SpaceGroup

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
    from hklflow import plots
    from hklflow.bragg import absences, laue, merging, shells
    from hklflow.formats import mtz
    from hklflow.nexus import structure_factors as files
    from hklflow.plots import structure_factors as pictures

    selected = _read(inputs, params)
    crystal, group, allowed = selected.crystal, selected.group, selected.allowed
    merged = merging.merge(
        allowed, crystal.cell, group, params.anomalous, params.outlier_sigma, params.amplitudes
    )
    table = shells.statistics(
        merged, crystal.cell, group, selected.n_rotations, params.shells, params.seed
    )
    extinct = absences.examine(selected.everything, group)
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
            "scaled reflections": selected.n_scaled,
            "beyond d_min": selected.n_scaled - len(selected.everything),
            "systematically absent": int(selected.forbidden.sum()),
            "outliers": int(merged.outlier.sum()),
            "merged": int(merged.factors.mean.n.sum()),
        },
        "unique": len(merged.factors),
        "unique that do not agree": int((~merged.factors.agree).sum()),
        "overall": table.overall,
        "shells": table.rows,
        "fall-off": table.fall_off,
        "absences": extinct.to_dict(),
        "Laue groups": symmetries.to_dict(),
        "warnings": warnings,
    }
    title = f"{crystal.sample} {crystal.scan}: structure factors in {group.symbol}"
    files.write_factors(outputs.factors, merged.factors, crystal, metrics, title)
    mtz.write_mtz(outputs.mtz, merged.factors, crystal, group, title)
    files.write_table(outputs.table, merged.factors)
    _write_shelx(outputs.hkl, selected, merged, merge=params.shelx == "merged")
    plots.save(pictures.merged(metrics, title), outputs.picture)
    stage.write_json(outputs.metrics, metrics)
    print("\n".join([shells.line(table), *warnings]))


class _Selected(NamedTuple):
    """Scaled reflections in the range of d.

    Attributes
    ----------
    n_scaled, n_rotations : int
        Number of all scaled reflections, and of their rotations.
    everything : Scaled
        Reflections of d_min and more.
    forbidden : (n,) bool array
        True for the systematically absent ones.
    """

    crystal: "Crystal"
    group: "SpaceGroup"
    n_scaled: int
    n_rotations: int
    everything: "Scaled"
    forbidden: "NDArray[np.bool_]"

    @property
    def allowed(self) -> "Scaled":
        """Reflections that the space group allows."""
        return self.everything.select(~self.forbidden)


def _read(inputs: Inputs, params: Params) -> _Selected:
    """Read the scaled reflections, and refuse them if none can be merged."""
    from dataclasses import replace

    from hklflow.base.errors import HklflowError
    from hklflow.bragg.structure_factors import Crystal
    from hklflow.geometry import symmetry
    from hklflow.nexus import structure_factors as files

    file = files.read_scaled(inputs.scaled)
    orientation = stage.read_orientation(inputs.orientation)
    crystal = Crystal.of(orientation, params.space_group or file.crystal.space_group)
    group = symmetry.space_group(crystal.space_group)
    everything = file.scaled.select(file.scaled.d >= (params.d_min or 0.0))
    forbidden = group.is_absent(everything.hkl)
    if forbidden.all():
        raise HklflowError(
            f"{inputs.scaled} has {len(everything)} reflections of d_min {params.d_min or 0:g} and "
            f"more, none of which {group.symbol} allows; check space_group and d_min"
        )
    crystal = replace(crystal, space_group=group.symbol)
    n_rotations = len(file.rotations)
    return _Selected(crystal, group, len(file.scaled), n_rotations, everything, forbidden)


def _write_shelx(path: Path, selected: _Selected, merged: "Merged", *, merge: bool) -> None:
    from hklflow.formats import shelx

    # SHELXL and XPREP test the absences themselves and need the absent reflections.
    kept = selected.forbidden.copy()
    kept[~selected.forbidden] = ~merged.outlier
    rows = shelx.rows_of(merged.factors, None if merge else selected.everything.select(kept))
    shelx.write_hklf4(path, *rows, crystal=selected.crystal, merged=merge)


if __name__ == "__main__":
    stage.command(main)
