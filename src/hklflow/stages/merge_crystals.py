"""Merge several scans, of one or several crystals, to one set of structure factors.

All scans are brought to one setting and scaled together. A scan that contradicts the others is left
out, with a sentence that names it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from hklflow import stage
from hklflow.stage.merged_files import MergedFiles
from hklflow.stage.reflection_settings import MergingSettings, ScalingSettings

if TYPE_CHECKING:
    from hklflow.bragg.combination import Combination, Member
    from hklflow.bragg.structure_factors import Crystal
    from hklflow.orientation.product import Orientation

VERSION = 2

_ALIKE_K = 5.0  # largest difference of temperatures of one substance in one state, K
_ALIKE_WAVELENGTH = 0.01  # largest relative difference; anomalous scattering depends on it


class Inputs(stage.Inputs):
    reflections: list[Path]
    """Integrated reflections of all rotations of all scans."""
    orientations: list[Path]
    """Orientation of each scan: cell, space group, geometry of its rotations."""


class Outputs(MergedFiles):
    scaled: Path
    """Scaled reflections of the scans that are merged, not merged."""
    picture: Path
    """Picture: statistics by resolution, test of absences."""
    comparison: Path
    """Picture: ΔCC1/2 with its limit, scale and B, and cell of each scan."""
    metrics: Path
    """What is known about each scan; statistics by resolution, tests, warnings."""


class Settings(stage.Params):
    """Limits for scans that are merged."""

    cell_tolerance: float = Field(0.005, gt=0, lt=0.03)
    """Largest strain of a cell relative to the median cell. Half a percent changes the phase of an
    atom at high angles, and so the intensities, by more than their errors.
    """
    least_gain: float = Field(0.2, ge=0, lt=1)
    """Smallest fraction by which 1 - CC1/2 falls when the other scans are scaled again without a
    scan that is left out. The value keeps scans that are only weaker than the others.
    """
    significance: float = Field(4.0, ge=2)
    """Significance that shows a contradiction, in standard errors: by how much the fraction of the
    reflections whose equivalents agree better without a scan exceeds the fraction that is expected
    of a scan with right errors. Chance alone exceeds 4 for one scan in 30000.
    """


class Params(Settings):
    """Settings of the stage, and the scans from the configuration."""

    name: str
    """Name of the set of scans."""
    scans: list[str]
    """Names of the scans as `sample/scan`, in the order of the orientations."""
    rotations: list[str]
    """Names of the rotations as `sample/scan/rotation`, in the order of the reflections."""
    automatic: bool = True
    """Leave out scans that contradict the others."""
    leave_out: list[str] = Field(default_factory=list)
    """Names of scans to leave out in any case."""
    scaling: ScalingSettings = ScalingSettings()
    """Settings of scaling: section `scale_reflections`."""
    merging: MergingSettings = MergingSettings()
    """Settings of merging: section `merge_reflections`."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Read the reflections of all scans, scale them together, merge them."""
    from hklflow import plots
    from hklflow.bragg import combination, crystals, scaling, shells
    from hklflow.geometry import symmetry
    from hklflow.nexus import structure_factors as files
    from hklflow.plots import crystals as pictures
    from hklflow.plots import structure_factors as merged_pictures
    from hklflow.stage.merged_files import merge_scaled

    orientations = _read_orientations(inputs, params)
    wanted = params.scaling.space_group
    group = symmetry.space_group(wanted) if wanted else None
    members, left_out = _members(inputs, params, orientations)
    settings = scaling.Settings(
        **params.scaling.model_dump(exclude={"estimate", "space_group", "d_min"})
    )
    rules = combination.Rules(
        params.automatic,
        params.leave_out,
        params.cell_tolerance,
        params.least_gain,
        params.significance,
    )
    found = crystals.combine(members, group, settings, rules)
    kept = [one for one, judged in zip(orientations, found.scans, strict=True) if judged.merged]
    crystal = _crystal(found, kept, params)
    scaled = found.scaled()
    merged = merge_scaled(
        scaled,
        crystal,
        len(found.rotations),
        params.merging,
        anomalous=params.scaling.anomalous,
        source=f"the set {params.name}",
    )
    reasons = [one.reason for one in found.scans if one.reason]
    warnings = [*reasons, *found.warnings, *_unlike(kept), *found.scaling.notes]
    metrics = {
        **merged.metrics,
        "scans": found.table(),
        "scans merged": len(kept),
        "scans left out": len(found.scans) - len(kept),
        "limits": {
            "gain": params.least_gain,
            "significance": params.significance,
            "cell strain": params.cell_tolerance,
        },
        "scaling": found.scaling.metrics(found.rotations),
        "reflections left out": left_out,
        "warnings": [*warnings, *merged.metrics["warnings"]],
    }
    merged.metrics.update(metrics)
    title = f"{params.name}: structure factors of {len(kept)} scans in {crystal.space_group}"
    files.write_scaled(outputs.scaled, scaled, found.rotations, crystal, metrics["scaling"])
    merged.write(outputs, title, shelx=params.merging.shelx)
    plots.save(merged_pictures.merged(merged.metrics, title), outputs.picture)
    plots.save(pictures.scans(metrics, f"{params.name}: scans"), outputs.comparison)
    stage.write_json(outputs.metrics, metrics)
    print("\n".join([shells.line(merged.table), *metrics["warnings"]]))


def _read_orientations(inputs: Inputs, params: Params) -> "list[Orientation]":
    from hklflow.base.errors import HklflowError

    for what, names, paths in (
        ("scans", params.scans, inputs.orientations),
        ("rotations", params.rotations, inputs.reflections),
    ):
        if len(names) != len(paths):
            raise HklflowError(f"{len(names)} {what} with {len(paths)} files; give one for each")
    if unknown := set(params.leave_out) - set(params.scans):
        raise HklflowError(
            f"leave_out names {', '.join(sorted(unknown))}; the scans are {', '.join(params.scans)}"
        )
    return [stage.read_orientation(path) for path in inputs.orientations]


def _members(
    inputs: Inputs, params: Params, orientations: "list[Orientation]"
) -> "tuple[list[Member], dict[str, dict[str, int]]]":
    """Return the scans with their reflections, and the numbers of reflections without intensity."""
    from hklflow import nexus
    from hklflow.base.errors import HklflowError
    from hklflow.bragg import observations
    from hklflow.bragg.combination import Member
    from hklflow.bragg.common_setting import Lattice
    from hklflow.geometry import symmetry

    members, left_out = [], {}
    for name, orientation in zip(params.scans, orientations, strict=True):
        mine = [
            (rotation.removeprefix(f"{name}/"), path)
            for rotation, path in zip(params.rotations, inputs.reflections, strict=True)
            if rotation.startswith(f"{name}/")
        ]
        missing = [rotation for rotation, _ in mine if rotation not in orientation.rotations]
        if missing or not mine:
            raise HklflowError(
                f"{name} has the rotations {', '.join(orientation.rotations)}, but reflections of "
                f"{', '.join(rotation for rotation, _ in mine) or 'none'} are given; integrate it "
                "again"
            )
        rotations = [orientation.rotations[rotation] for rotation, _ in mine]
        group = symmetry.space_group(orientation.space_group)
        observed, left_out[name] = observations.gather(
            [nexus.read_reflections(path) for _, path in mine],
            rotations,
            group,
            params.scaling.estimate,
            params.scaling.d_min or 0.0,
        )
        if not len(observed):
            raise HklflowError(
                f"{name} has no reflection with an intensity that can be used "
                f"({observations.described(left_out[name])}); look at the pictures of its "
                f"integration, or remove it from `crystals: {params.name}`"
            )
        members.append(
            Member(
                name,
                Lattice(orientation.cell, group),
                observed,
                [rotation for rotation, _ in mine],
                [observations.span(rotation) for rotation in rotations],
            )
        )
    return members, left_out


def _crystal(found: "Combination", kept: "list[Orientation]", params: Params) -> "Crystal":
    """Return the mean crystal of the merged scans; the sample is that of the first scan."""
    from dataclasses import replace

    import numpy as np

    from hklflow.bragg.structure_factors import Crystal
    from hklflow.geometry import symmetry

    wanted = params.merging.space_group or found.group.symbol
    group = symmetry.space_group(wanted)
    known = [one.temperature for one in kept if one.temperature is not None]
    measured = np.mean([one.cell_sigma**2 for one in kept], axis=0) / len(kept)
    return replace(
        Crystal.of(kept[0], group.symbol),
        sample=params.scans[0].partition("/")[0],
        scan=params.name,
        parent=params.name,
        cell=tuple(symmetry.constrain_cell(found.cell, group).tolist()),
        cell_sigma=tuple(np.sqrt(np.maximum(found.cell_sigma**2, measured)).tolist()),
        temperature=float(np.mean(known)) if known else None,
    )


def _unlike(kept: "list[Orientation]") -> list[str]:
    """Return sentences on conditions that differ among the merged scans."""
    texts = []
    known = [one.temperature for one in kept if one.temperature is not None]
    waves = [r.beam.wavelength for one in kept for r in one.rotations.values()]
    values: list[tuple[str, list[float], str, float]] = [
        ("temperatures", known, "K", _ALIKE_K),
        ("wavelengths", waves, "Å", _ALIKE_WAVELENGTH * max(waves)),
    ]
    for what, numbers, unit, limit in values:
        if numbers and max(numbers) - min(numbers) > limit:
            texts.append(
                f"the merged scans have {what} from {min(numbers):g} to {max(numbers):g} {unit}: "
                "their intensities may differ; make a set of each"
            )
    return texts


if __name__ == "__main__":
    stage.command(main)
