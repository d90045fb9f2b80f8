"""Merge scaled reflections, and write the structure factors in every format."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hklflow import stage
from hklflow.stage.reflection_settings import MergingSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.bragg.merging import Merged
    from hklflow.bragg.shells import Statistics
    from hklflow.bragg.structure_factors import Crystal, Scaled
    from hklflow.geometry.symmetry import SpaceGroup


class MergedFiles(stage.Outputs):
    """Files of structure factors."""

    factors: Path
    """Unique reflections: intensity, amplitude, errors, multiplicity."""
    mtz: Path
    """The same reflections as MTZ."""
    hkl: Path
    """The same reflections in SHELX format HKLF 4."""
    table: Path
    """The same reflections as tab-separated text."""


@dataclass(frozen=True)
class MergedReflections:
    """Merged reflections with everything that is written about them.

    Attributes
    ----------
    crystal : Crystal
    group : SpaceGroup
    everything : Scaled
        Reflections of d_min and more.
    forbidden : (n,) bool array
        True for the systematically absent ones.
    merged : Merged
    table : Statistics
    metrics : dict
        Statistics, tests and warnings, for JSON.
    """

    crystal: "Crystal"
    group: "SpaceGroup"
    everything: "Scaled"
    forbidden: "NDArray[np.bool_]"
    merged: "Merged"
    table: "Statistics"
    metrics: dict[str, Any]

    def write(
        self, outputs: MergedFiles, title: str, *, shelx: Literal["unmerged", "merged"]
    ) -> None:
        """Write NeXus, MTZ, SHELX and text files."""
        from hklflow.formats import mtz
        from hklflow.nexus import structure_factors as files

        factors = self.merged.factors
        files.write_factors(outputs.factors, factors, self.crystal, self.metrics, title)
        mtz.write_mtz(outputs.mtz, factors, self.crystal, self.group, title)
        files.write_table(outputs.table, factors)
        self._write_shelx(outputs.hkl, merge=shelx == "merged")

    def _write_shelx(self, path: Path, *, merge: bool) -> None:
        from hklflow.formats import shelx

        # SHELXL and XPREP test the absences themselves and need the absent reflections.
        kept = self.forbidden.copy()
        kept[~self.forbidden] = ~self.merged.outlier
        rows = shelx.rows_of(self.merged.factors, None if merge else self.everything.select(kept))
        shelx.write_hklf4(path, *rows, crystal=self.crystal, merged=merge)


def merge_scaled(
    scaled: "Scaled",
    crystal: "Crystal",
    n_rotations: int,
    params: MergingSettings,
    *,
    anomalous: bool,
    source: str,
) -> MergedReflections:
    """Merge equivalents, and test absences and Laue group.

    Parameters
    ----------
    scaled : Scaled
    crystal : Crystal
        Crystal with the space group of merging.
    n_rotations : int
    params : MergingSettings
    anomalous : bool
    source : str
        Origin of the reflections, for messages.

    Raises
    ------
    HklflowError
        If no reflection can be merged.
    """
    from hklflow.base.errors import HklflowError
    from hklflow.bragg import absences, laue, merging, shells
    from hklflow.geometry import symmetry

    group = symmetry.space_group(crystal.space_group)
    everything = scaled.select(scaled.d >= (params.d_min or 0.0))
    forbidden = group.is_absent(everything.hkl)
    if forbidden.all():
        raise HklflowError(
            f"{source} has {len(everything)} reflections of d_min {params.d_min or 0:g} and "
            f"more, none of which {group.symbol} allows; check space_group and d_min"
        )
    allowed = everything.select(~forbidden)
    merged = merging.merge(
        allowed, crystal.cell, group, anomalous, params.outlier_sigma, params.amplitudes
    )
    table = shells.statistics(merged, crystal.cell, group, n_rotations, params.shells, params.seed)
    extinct = absences.examine(everything, group)
    symmetries = laue.examine(allowed, group)
    metrics = {
        "sample": crystal.sample,
        "scan": crystal.scan,
        "space group": group.symbol,
        "Laue group": group.laue,
        "Friedel mates": "apart" if anomalous else "merged",
        "amplitudes": params.amplitudes,
        "counters": {
            "scaled reflections": len(scaled),
            "beyond d_min": len(scaled) - len(everything),
            "systematically absent": int(forbidden.sum()),
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
        "warnings": [*extinct.warnings, *symmetries.warnings, *merged.warnings],
    }
    return MergedReflections(crystal, group, everything, forbidden, merged, table, metrics)
