"""Scale the reflections of all rotations of a scan together, and correct their error bars.

The model of an observation is ``s(φ) exp(-2 B(φ) (sin θ / λ)²) A I``. ``s`` and ``B`` are smooth
functions in each rotation; the absorption ``A`` is optional. For the first rotation the mean of
``s`` is 1 and the mean of ``B`` is 0.
"""

from pathlib import Path

from hklflow import stage
from hklflow.stage.reflection_settings import ScalingSettings

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
    """Picture: scale and B against angle, deviations of equivalents before and after scaling."""
    metrics: Path
    """Refined and fixed parameters, error model, outliers, numbers of reflections left out."""


class Settings(ScalingSettings):
    """Settings of this stage in the configuration file."""


class Params(Settings):
    """Settings of the stage, and the rotations from the tables."""

    rotations: list[str]
    """Names of the rotations, in the order of the inputs."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Read, scale and write the reflections."""
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
            f"that can be used ({observations.described(left_out)}); look at the pictures of "
            "integration"
        )
    spans = [observations.span(rotation) for rotation in rotations]
    settings = scaling.Settings(
        **params.model_dump(exclude={"estimate", "space_group", "d_min", "rotations"})
    )
    # All rotations of a scan are of one crystal.
    outcome = scaling.scale(
        observed, group, spans, settings, params.rotations, [0] * len(rotations)
    )
    notes = list(outcome.notes)
    if orientation.cell_constraints is None and params.space_group is None:
        notes.append(
            f"the cell breaks the constraints of {group.symbol}, but its Laue group defines the "
            "equivalents; set space_group to the space group of this scan"
        )
    scaled = outcome.scaled(observed)
    metrics = {
        "estimate": params.estimate,
        "reflections": sum(len(table) for table in tables),
        "left out": left_out,
        "used": len(observed),
        "space group": group.symbol,
        "Laue group": group.laue,
        **outcome.metrics(params.rotations),
        "notes": notes,
    }
    files.write_scaled(outputs.scaled, scaled, params.rotations, crystal, metrics)
    title = f"{crystal.sample} {crystal.scan}: scales and errors of {len(scaled)} reflections"
    plots.save(
        pictures.scales(outcome.curves, outcome.spread, params.rotations, title), outputs.picture
    )
    stage.write_json(outputs.metrics, metrics)
    a, b = outcome.errors.a, outcome.errors.b
    factors = [float(np.exp(np.mean(curve.log_scale))) for curve in outcome.curves]
    print(
        f"{len(observed)} of {metrics['reflections']} reflections scaled: mean scales "
        + " ".join(f"{factor:.4g}" for factor in factors)
        + f", error model a = {a:.3g}, b = {b:.3g}, {outcome.n_outliers} outliers"
        + "".join(f"; {note}" for note in notes)
    )


if __name__ == "__main__":
    stage.command(main)
