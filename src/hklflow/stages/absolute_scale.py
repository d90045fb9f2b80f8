"""Find the factor that makes S(Q) electron units per cell; it is reported, not applied.

Up to three methods: Bragg intensities against the structure of a CIF file, the high-angle limit of
S(Q), and the intensities of a reference scan of the same sample whose factor is known. Each gives
the factor with its error, or the reason why it gives none.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.bragg.high_angle import HighAngleFit
    from hklflow.bragg.structure import Structure
    from hklflow.nexus.structure_factors import ScaledFile
    from hklflow.plots.absolute_scale import Points
    from hklflow.quality.absolute import Estimate, Limits

VERSION = 2

_SLAB = 32  # planes of a volume that are in memory
_SAMPLE = 500_000  # voxels for the ratio of two volumes
_SAME_TEMPERATURE = 2.0  # K
_CELL_MISFIT, _CELL_TOLD = 0.03, 0.005


class Inputs(stage.Inputs):
    volume: Path
    """Merged volume of all pixels."""
    scaled: Path
    """Scaled reflections of the scan."""
    reference_files: list[Path] = Field(default_factory=list)
    """Merged volume, scaled reflections and absolute scale of the reference scan."""


class Outputs(stage.Outputs):
    picture: Path
    """Picture: intensities against the structure, high angles, factors of all methods."""
    metrics: Path
    """Factor, error, method, and the findings of every method."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    cif: Path | None = None
    """CIF file of the average structure at the temperature of the scan, with occupancies and
    displacements; None: no absolute scale from Bragg intensities and high angles.
    """
    cif_block: str | None = None
    """Data block of the CIF file; None: the only block with a cell."""
    reference: str | None = None
    """Scan of the same sample whose absolute scale comes from a CIF file; None: no reference."""
    background_error: float | None = Field(None, ge=0, le=1)
    """Error of the isotropic background that is left in S(Q) at high angles, as a fraction of S; 0:
    there is none. None: not known, and high angles give a bound only.
    """
    max_error: float = Field(0.05, gt=0, le=1)
    """Largest relative error of a factor that is given."""
    min_level: float = Field(0.65, ge=0.5, lt=1)
    """Smallest level (diffuse scattering of independent atoms over its high-angle limit) of the
    range of high angles. Below it, the motions of neighbouring atoms matter.
    """
    max_block_scatter: float = Field(0.15, gt=0)
    """Largest relative scatter of the scale of Bragg intensities with the angle of the scan; more
    means that the transmission of the sample is not known.
    """

    @property
    def is_requested(self) -> bool:
        """True if something is given that supports an absolute scale."""
        return self.cif is not None or self.reference is not None


class Params(Settings):
    """Settings of the stage, and facts of the sample."""

    formula: str = ""
    """Formula of the sample table, whose elements must be those of the CIF file."""
    title: str = "absolute scale"
    """Title of the picture."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Estimate the factor by each method, compare, write."""
    from hklflow import plots
    from hklflow.base.errors import HklflowError
    from hklflow.base.numbers import plus_minus
    from hklflow.nexus import structure_factors as files
    from hklflow.plots.absolute_scale import Points, absolute_scale
    from hklflow.quality import absolute

    if not params.is_requested:
        raise HklflowError(
            "nothing gives an absolute scale: set `absolute_scale: {cif: ...}` or `{reference: "
            "...}`"
        )
    limits = absolute.Limits(params.max_error, params.min_level, params.max_block_scatter)
    scan = files.read_scaled(inputs.scaled)
    drawn = Points()
    estimates: list[Estimate] = []
    warnings: list[str] = []
    if params.cif is not None:
        structure, warnings = _structure(params.cif, params, scan)
        estimates.append(_bragg(scan, structure, limits, drawn))
        estimates.append(_high_angles(inputs.volume, scan, structure, params, limits, drawn))
    if params.reference is not None:
        estimates.append(_reference(inputs, scan, limits))
    found = absolute.combine(estimates)
    metrics: dict[str, Any] = {
        "factor": found.factor,
        "sigma": found.sigma,
        "method": found.method,
        "meaning": "S × factor is in electron units per cell; the factor is not applied",
        "methods": {estimate.method: estimate.to_dict() for estimate in estimates},
        "warnings": [*warnings, *found.warnings],
        "notes": [
            *(f"absolute scale from {e.method}: {note}" for e in estimates for note in e.notes),
            *(f"no absolute scale from {e.method}: {e.refusal}" for e in estimates if e.refusal),
        ],
    }
    plots.save(absolute_scale(drawn, metrics, params.title), outputs.picture)
    stage.write_json(outputs.metrics, metrics)
    for sentence in (*metrics["warnings"], *metrics["notes"]):
        print(sentence)
    if found.factor is None or found.sigma is None:
        print("S(Q) has no absolute scale")
    else:
        print(
            f"S × {plus_minus(found.factor, found.sigma)} is in electron units per cell, from "
            f"{found.method}"
        )


def rehearse(*, inputs: Inputs, outputs: Outputs, params: Params, known: Any) -> None:
    """Read the CIF file."""
    if params.cif is not None:
        from hklflow.formats.cif_structure import read_structure

        read_structure(params.cif, params.cif_block)


def _structure(path: Path, params: Params, scan: "ScaledFile") -> "tuple[Structure, list[str]]":
    """Read the structure, require that its cell is the cell of the scan; return warnings, too.

    The structure gets the cell of the scan: its volume is the volume of a cell of this crystal.
    """
    import re
    from dataclasses import replace

    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.formats.cif_structure import read_structure
    from hklflow.geometry import lattice
    from hklflow.geometry.reduction import strain

    structure = read_structure(path, params.cif_block)
    cell = np.array(scan.crystal.cell)
    misfit = float(strain(lattice.metric(cell), structure.cell))
    if misfit > _CELL_MISFIT:
        raise HklflowError(
            f"{path} has the cell {' '.join(f'{x:.4g}' for x in structure.cell)}, the scan "
            f"{' '.join(f'{x:.4g}' for x in cell)} ({misfit:.1%} apart); give the structure in the "
            "setting of the scan, or set `refine_parent: {cell, space_group}` to the setting of "
            "the CIF file"
        )
    warnings = []
    if misfit > _CELL_TOLD:
        warnings.append(
            f"the cell of {path.name} differs by {misfit:.1%} from the cell of the scan, which the "
            "absolute scale uses: the structure may be of another crystal or temperature, or the "
            "distance or the wavelength is wrong"
        )
    structure = replace(structure, cell=cell)
    listed = set(re.findall(r"[A-Z][a-z]?", params.formula)) - {"D"}
    missing = sorted(listed.symmetric_difference(structure.elements))
    if listed and missing:
        warnings.append(
            f"the formula {params.formula} of the sample table and the atoms of {path.name} differ "
            f"in {', '.join(missing)}: the absolute scale is that of the CIF file; correct one"
        )
    return structure, warnings


def _bragg(
    scan: "ScaledFile", structure: "Structure", limits: "Limits", drawn: "Points"
) -> "Estimate":
    from dataclasses import replace

    import numpy as np

    from hklflow.bragg import absolute as fits
    from hklflow.geometry import symmetry
    from hklflow.quality import absolute

    crystal = scan.crystal
    group = symmetry.space_group(crystal.space_group)
    measured = fits.as_measured(scan.scaled)
    if not len(measured):
        return _no_reflections(absolute.BRAGG)
    data, operator = fits.against_structure(
        measured, structure, crystal.cell, group, crystal.wavelength
    )
    plain, bent = (fits.fit_ratio(data, crystal.wavelength, x) for x in (False, True))
    drawn.intensities(data)
    estimate = absolute.from_bragg(plain, bent, limits)
    if np.allclose(operator, np.eye(3)):
        return estimate
    rows = "; ".join(" ".join(f"{x:g}" for x in row) for row in operator)
    note = f"the structure fits the intensities with the indices h' = ({rows}) h of the scan"
    return replace(estimate, notes=(*estimate.notes, note))


def _no_reflections(method: str) -> "Estimate":
    from hklflow.quality.absolute import Estimate

    return Estimate(
        method, refusal="the scan has no scaled reflections; look at the pictures of integration"
    )


def _high_angles(
    path: Path,
    scan: "ScaledFile",
    structure: "Structure",
    params: Params,
    limits: "Limits",
    drawn: "Points",
) -> "Estimate":
    import numpy as np

    from hklflow import nexus
    from hklflow.bragg import high_angle
    from hklflow.quality import absolute
    from hklflow.volumes.zones import ZoneSums

    wavelength = scan.crystal.wavelength
    with nexus.open_volume(path) as volume:
        # No |Q| of elastic scattering is larger than 4π/λ.
        curve = high_angle.smooth_curve(structure, wavelength, 4 * np.pi / wavelength)
        sums = ZoneSums(volume.grid, volume.cell, curve)
        planes = volume.grid.array_shape[0]
        for first in range(0, planes, _SLAB):
            last = min(first + _SLAB, planes)
            variance = volume.variance(slice(first, last))
            sums.add(first, *volume.slab(first, last), variance)
        zones, cell = sums.zones(), volume.cell
    model = high_angle.expected(zones, cell, structure, wavelength)
    kept = absolute.usable(model, zones.measured, limits)
    fit: HighAngleFit | None = None
    if kept.any():
        fit = high_angle.fit_high_angle(zones.select(kept), model.select(kept))
        drawn.shells = fit.shells
    whole = zones.measured > absolute.COMPLETE
    top = int(np.argmax(np.where(whole, model.q, -1))) if whole.any() else None
    reach, level = (0.0, 0.0) if top is None else (float(model.q[top]), float(model.level[top]))
    return absolute.from_high_angles(fit, reach, level, params.background_error, limits)


def _reference(inputs: Inputs, scan: "ScaledFile", limits: "Limits") -> "Estimate":
    from dataclasses import replace

    from hklflow.bragg import absolute as fits
    from hklflow.geometry import symmetry
    from hklflow.nexus import structure_factors as files
    from hklflow.quality import absolute

    volume, scaled, scale = inputs.reference_files
    known = stage.read_json(scale)
    if known["factor"] is None:
        return absolute.Estimate(
            absolute.REFERENCE,
            refusal=f"the reference scan has no absolute scale itself; see {scale}",
        )
    reference = files.read_scaled(scaled)
    group = symmetry.space_group(scan.crystal.space_group)
    pair = fits.as_measured(scan.scaled), fits.as_measured(reference.scaled)
    both = [fits.against_reference(*pair, group), fits.against_reference(*pair[::-1], group)]
    if not all(len(data.s) for data in both):
        return _no_reflections(absolute.REFERENCE)
    forward, backward = (
        fits.fit_ratio(data, scan.crystal.wavelength, extinction=False) for data in both
    )
    estimate = absolute.from_reference(forward, backward, known["factor"], known["sigma"], limits)
    kelvin = scan.crystal.temperature, reference.crystal.temperature
    same = None not in kelvin and abs(kelvin[0] - kelvin[1]) <= _SAME_TEMPERATURE  # type: ignore[operator]
    ratio = _ratio_of_volumes(inputs.volume, volume)
    check = absolute.volumes_note(forward, ratio) if same else ""
    figures = {**estimate.figures, "ratio of S in common voxels": ratio}
    return replace(estimate, figures=figures, notes=(check,) if check else ())


def _ratio_of_volumes(path: Path, reference: Path) -> float | None:
    """Return the scale between S(Q) of two scans in common voxels; None: nothing in common."""
    import numpy as np

    from hklflow import nexus
    from hklflow.base.errors import HklflowError
    from hklflow.volumes.difference import fit_scale

    with nexus.open_volume(path) as one, nexus.open_volume(reference) as other:
        if not one.grid.same_as(other.grid):
            return None
        planes, k, h = one.grid.array_shape
        step = max(1, planes * k * h // _SAMPLE)
        parts: list[list[Any]] = [[] for _ in range(4)]
        for first in range(0, planes, _SLAB):
            region = slice(first, first + _SLAB)
            values = [
                volume.group[name][region].ravel()[::step].astype(np.float64)
                for volume in (one, other)
                for name in ("data", "data_errors")
            ]
            seen = np.all(np.isfinite(values), axis=0) & (values[1] > 0) & (values[3] > 0)
            for part, value in zip(parts, values, strict=True):
                part.append(value[seen])
    try:
        return fit_scale(*(np.concatenate(part) for part in parts))[0]
    except HklflowError:
        return None


if __name__ == "__main__":
    stage.command(main)
