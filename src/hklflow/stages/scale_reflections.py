"""Bring the reflections of all rotations of one scan to one scale, and their errors to truth.

Observed is ``s(φ) exp(-2 B(φ) (sin θ / λ)²) A I``, with ``s`` and ``B`` smooth in each rotation
and absorption ``A`` if asked for; mean ``s`` and ``B`` of the first rotation are 1 and 0.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    reflections: list[Path]
    """Integrated reflections of every rotation."""
    orientation: Path
    """Orientation of the scan: cell, space group, geometry of every rotation."""


class Outputs(stage.Outputs):
    scaled: Path
    """Scaled reflections, not merged."""
    picture: Path
    """Picture: scale and B against angle, deviations of equivalents before and after."""
    metrics: Path
    """What was refined and what not, error model, outliers, counters of reflections left out."""


class Settings(stage.Params):
    """What the configuration file sets."""

    estimate: Literal["profile", "sum"] = "profile"
    """Which intensity: of the profile fit (reflections without are left out) or of summation."""
    space_group: str | None = None
    """Its Laue group tells which reflections are equivalent; None: that of the orientation."""
    anomalous: bool = False
    """Friedel mates are not equivalent, in scaling and in merging."""
    d_min: float | None = Field(None, gt=0)
    """Least spacing in Å of the reflections used; None: all."""
    scale_interval: float = Field(15.0, gt=0)
    """Degrees between the nodes of the scale; of fewer reflections than it needs, more."""
    decay: bool = True
    """Refine B (Debye-Waller factor relative to the first rotation)."""
    decay_interval: float = Field(30.0, gt=0)
    """Degrees between the nodes of B."""
    absorption: int = Field(0, ge=0, le=8)
    """Highest degree of the spherical harmonics of the directions of incident and diffracted beam
    in the crystal; 0: none. Needs many equivalents at different directions."""
    error_model: Literal["refine", "none"] = "refine"
    """`refine`: σ'² = a²(σ² + (b I)²) from the spread of equivalents; `none`: a = 1, b = 0."""
    outlier_sigma: float = Field(6.0, ge=3)
    """Deviation from its equivalents, in standard deviations, from which one is an outlier."""


class Params(Settings):
    """Settings, and what the tables say of the scan."""

    rotations: list[str]
    """Names of the rotations, in the order of the inputs."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Gather, scale, tell."""
    import numpy as np

    from hklflow import nexus, plots
    from hklflow.base.errors import HklflowError
    from hklflow.bragg import observations, scaling
    from hklflow.bragg.structure_factors import Crystal
    from hklflow.geometry import symmetry
    from hklflow.nexus import structure_factors as files
    from hklflow.plots import structure_factors as pictures

    orientation = stage.read_orientation(inputs.orientation)
    known = orientation.rotations
    if len(params.rotations) != len(inputs.reflections) or set(params.rotations) - set(known):
        raise HklflowError(
            f"rotations {', '.join(params.rotations)} with {len(inputs.reflections)} tables of "
            f"reflections, {inputs.orientation} has {', '.join(known)}; give one table for each"
        )
    crystal = Crystal.of(orientation, params.space_group)
    group = symmetry.space_group(crystal.space_group)
    tables = [nexus.read_reflections(path) for path in inputs.reflections]
    rotations = [known[name] for name in params.rotations]
    observed, left_out = observations.gather(
        tables, rotations, group, params.estimate, params.d_min or 0.0
    )
    if not len(observed):
        raise HklflowError(
            f"none of {sum(left_out.values())} reflections of {crystal.scan} has an intensity "
            f"that can be used ({observations.told(left_out)}); look at the pictures of integration"
        )
    spans = [observations.span(rotation) for rotation in rotations]
    settings = scaling.Settings(
        **params.model_dump(exclude={"estimate", "space_group", "d_min", "rotations"})
    )
    found = scaling.scale(observed, group, spans, settings)
    notes = list(found.notes)
    if orientation.cell_constraints is None and params.space_group is None:
        notes.append(
            f"the cell breaks the constraints of {group.symbol}, of whose Laue group equivalents "
            "were taken all the same; set space_group to that of this scan"
        )
    scaled = found.scaled(observed)
    metrics = {
        "estimate": params.estimate,
        "reflections": sum(len(table) for table in tables),
        "left out": left_out,
        "used": len(observed),
        "space group": group.symbol,
        "Laue group": group.laue,
        **found.metrics(params.rotations),
        "notes": notes,
    }
    files.write_scaled(outputs.scaled, scaled, params.rotations, crystal, metrics)
    title = f"{crystal.sample} {crystal.scan}: scales and errors of {len(scaled)} reflections"
    plots.save(
        pictures.scales(found.curves, found.spread, params.rotations, title), outputs.picture
    )
    stage.write_json(outputs.metrics, metrics)
    a, b = found.errors.a, found.errors.b
    factors = [float(np.exp(np.mean(curve.log_scale))) for curve in found.curves]
    print(
        f"{len(observed)} of {metrics['reflections']} reflections scaled: mean scales "
        + " ".join(f"{factor:.4g}" for factor in factors)
        + f", error model a = {a:.3g}, b = {b:.3g}, {found.n_outliers} outliers"
        + "".join(f"; {note}" for note in notes)
    )


if __name__ == "__main__":
    stage.command(main)
