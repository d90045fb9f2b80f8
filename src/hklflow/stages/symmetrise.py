"""Symmetrise S(Q) by the Laue group: counts and norms of equivalent voxels are added."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from hklflow.geometry.grid import Grid
    from hklflow.geometry.symmetry import SpaceGroup
    from hklflow.nexus import OpenVolume, VolumeWriter
    from hklflow.plots.symmetrise import Maps
    from hklflow.plots.volumes import Sections
    from hklflow.quality.agreement_gates import Findings
    from hklflow.volumes.symmetrise import Agreement, Images, Records

VERSION = 5


class Inputs(stage.Inputs):
    volumes: list[Path] = Field(min_length=1)
    """Volumes of the rotations, which are then compared with each other, or the merged volume."""
    orientation: Path
    """Refined orientation of the scan, for its space group and cell."""


class Outputs(stage.Outputs):
    symmetrised: Path
    """S(Q) with errors, counts and norm, and maps of multiplicity and disagreement."""
    picture: Path
    """Picture: slices of the volume, multiplicity, disagreement of equivalent voxels, and agreement
    of half data sets by shell.
    """
    metrics: Path
    """Agreement of equivalents, rejected outliers, coverage. CC1/2 is the mean over shells of |Q|,
    weighted with the number of orbits, so that the decrease of S with |Q| does not raise it.
    """


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    symmetry: str | None = None
    """Space group whose Laue group is applied, in the setting of the cell. None: the space group of
    the orientation. `P 1`: only inversion.
    """
    n_sigma: float = Field(6.0, ge=3.0)
    """Largest deviation of a measurement of a voxel from its equivalents, in standard deviations;
    measurements farther away are left out."""
    tolerance: float = Field(0.1, ge=0, le=1)
    """Relative difference of equivalents that is allowed in addition to noise."""
    bragg_radius: float = Field(0.1, ge=0)
    """Radius in 1/Å around integer hkl; voxels that reach into it are neither judged nor left out.
    Sharp peaks are divided differently between equivalent voxels, and would raise the correlation
    of half data sets independently of the diffuse signal. 0: all voxels are judged.
    """
    told_asymmetry: float = Field(0.02, gt=0)
    """Relative difference of S between mates of an operation above which the operation is reported
    as contradicted. The difference is an rms without noise, without the part that changes slowly
    with Q, and beyond the difference of equal S (Friedel mates and repeated voxels). It must also
    be significant, and twice the difference of equal S. Hexagonal voxels, which their own symmetry
    rotates, differ by 1 % if S has features as narrow as a voxel.
    """
    max_asymmetry: float = Field(0.1, gt=0)
    """Limit for the same difference; above it, the symmetrised volume has failed. With diffuse
    scattering on a background, a difference of a tenth is most of the diffuse scattering.
    """
    told_slow: float = Field(0.03, gt=0)
    """Relative difference of mates that changes slowly with Q, above which it is reported. Causes
    are uncorrected absorption, scales or background.
    """
    told_chi2: float = Field(2.0, gt=1)
    """Reduced χ² of equivalents above which it is reported. At 2 the error bars, which contain only
    noise, are 1.4 times too small.
    """
    on_failure: Literal["stop", "warn"] = "warn"
    """Action for a volume beyond a limit. "stop": the job fails, and no products are made from the
    volume. "warn": the failure is recorded, and processing continues."""
    pool: int = Field(2, ge=0, le=5)
    """Half-width in voxels of the neighbourhood whose pooled count rate enters the error bars; 0:
    only the voxel itself.
    """
    memory: float = Field(8000.0, gt=0)
    """Memory for the volumes in MB. A larger volume is kept in a temporary file next to the output.
    """


class Params(Settings):
    """Settings of the stage, and the title."""

    title: str = "S(Q)"
    """Title of the volume and its pictures."""


# Number of planes that are processed at a time: one layer of chunks in the file.
_PLANES = 16


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Load all volumes, sum equivalents in place, derive S(Q) plane by plane."""
    from contextlib import ExitStack

    import numpy as np

    from hklflow import nexus, plots
    from hklflow.geometry.symmetry import space_group
    from hklflow.plots import symmetrise as pictures
    from hklflow.volumes import laue_pairs, symmetrise

    symbol = params.symmetry
    if symbol is None:
        symbol = stage.read_orientation(inputs.orientation).space_group
    group = space_group(symbol)
    _require_distinct(inputs.volumes)
    with ExitStack() as stack:
        volumes = [stack.enter_context(nexus.open_volume(path)) for path in inputs.volumes]
        _require_alike(inputs.volumes, volumes)
        grid, cell = volumes[0].grid, volumes[0].cell
        symmetrise.require_metric(cell, group.laue_operations, symbol)
        maps = _images(grid, group)
        records, unusable = _load(volumes, maps, outputs.symmetrised.parent, params)
        _tell_unusable(inputs.volumes, unusable)
        examined = laue_pairs.examine(
            records, group, cell, params.bragg_radius, params.told_asymmetry
        )
        agreement = symmetrise.apply(
            records,
            maps,
            cell,
            n_sigma=params.n_sigma,
            tolerance=params.tolerance,
            bragg_radius=params.bragg_radius,
            threads=threads,
            progress=lambda items, total: stage.progress(items, total, "symmetrised parts"),
        )
        metrics = _metrics(group, maps, agreement, inputs.volumes)
        metrics["voxels without a usable norm"] = int(unusable.sum())
        findings = _judge(examined, metrics["reduced chi2 of equivalents"], group, params)
        metrics["operations compared"] = examined
        metrics |= findings.to_dict()
        counts_type: Any = np.float64
        if maps.exact and all(volume.counts_are_whole for volume in volumes):
            counts_type = np.uint32 if records.counts.dtype == np.uint32 else np.uint64
        backgrounds = _backgrounds(volumes, maps, outputs.symmetrised.parent, threads)
        writer = stack.enter_context(
            nexus.VolumeWriter(
                outputs.symmetrised, grid, cell, params.title, counts_type, True,
                variance=records.noisy, background=backgrounds is not None,
                extra={"multiplicity": np.uint8, "disagreement": np.float32},
            )
        )  # fmt: skip
        sections, planes = _write(writer, records, backgrounds, counts_type, params.pool, threads)
        notes = nexus.corrections_note(volumes) | nexus.background_notes(
            volumes, [str(path) for path in inputs.volumes]
        )
        writer.note(_notes(group, params, metrics) | notes)
    figure = pictures.symmetrised(grid, cell, sections, planes, agreement, params.title)
    plots.save(figure, outputs.picture)
    stage.write_json(outputs.metrics, metrics)
    for sentence in (*findings.failures, *findings.doubts):
        print(f"warning: {sentence}")
    print(_told(metrics))


def _require_distinct(paths: list[Path]) -> None:
    """Refuse a file that is given twice.

    Raises
    ------
    HklflowError
        If a file is given twice, also under another name.
    """
    from hklflow.base.errors import HklflowError

    seen: dict[Path, Path] = {}
    for path in paths:
        if other := seen.get(path.resolve()):
            raise HklflowError(
                f"{path} is given twice{'' if path == other else f', also as {other}'}: its counts "
                "would count as two measurements, and errors would be too small; give it once"
            )
        seen[path.resolve()] = path


def _require_alike(paths: list[Path], volumes: "list[OpenVolume]") -> None:
    """Refuse volumes on different grids, and symmetrised volumes.

    Raises
    ------
    HklflowError
        If there is such a volume.
    """
    from hklflow import nexus
    from hklflow.base.errors import HklflowError

    nexus.require_one_grid(volumes, "transform them with the same parent")
    for path, volume in zip(paths, volumes, strict=True):
        if "operations" in volume.notes:
            raise HklflowError(
                f"{path} is symmetrised already: symmetrised again, its errors would be too small; "
                "give the volumes of the rotations or the merged volume"
            )


def _images(grid: "Grid", group: "SpaceGroup") -> "Images":
    """Return the images of each voxel; warn if some operations are not exact on this grid."""
    from hklflow.volumes import symmetrise

    maps = symmetrise.images(grid, group.laue_operations)
    if not maps.exact:
        print(
            f"warning: only {len(maps.turns)} of the {len(group.laue_operations)} operations of "
            f"{group.laue} map voxels of this grid onto voxels; the others are interpolated "
            "between eight voxels, which smooths S; to avoid this, transform with equal steps "
            "along equivalent axes and a voxel centre at 0"
        )
    return maps


def _load(
    volumes: "list[OpenVolume]", maps: "Images", folder: Path, params: Params
) -> "tuple[Records, NDArray[np.int64]]":
    """Read all volumes, with integer counts if sums of equivalents cannot overflow.

    The second result is the number of unusable voxels of each volume, which are left out.
    """
    import numpy as np

    from hklflow.nexus.scratch import mapped
    from hklflow.nexus.volume import SideBySide
    from hklflow.volumes.symmetrise import Records, leave_out_unusable

    rotations, grid = SideBySide(volumes), volumes[0].grid
    n_l = grid.array_shape[0]
    integers = maps.exact and not rotations.noisy and all(v.counts_are_whole for v in volumes)
    limit = (2**32 - 1) / (len(volumes) * len(maps.turns))
    for whole in [True, False] if integers else [False]:
        sizes = grid, len(volumes), rotations.noisy, whole, not maps.exact
        # Additional memory: planes as read, and planes to write with their neighbours.
        work = (2 * _PLANES + 2 * params.pool + 8 * len(volumes)) * grid.shape[0] * grid.shape[1]
        size = Records.size_of(*sizes)
        fits = size + 16 * work <= 1e6 * params.memory
        records = Records(*sizes, None if fits else mapped(folder, size))
        largest, starts = 0.0, range(0, n_l, _PLANES)
        unusable = np.zeros(len(volumes), np.int64)
        for first in stage.progress(starts, len(starts), "slabs read"):
            for rows, found in rotations.strips(first, min(first + _PLANES, n_l)):
                unusable += leave_out_unusable(found)
                largest = max(largest, records.put((first, rows.start), found))
            if whole and largest > limit:
                break
        else:
            return records, unusable
    raise AssertionError("numbers of double precision always fit")


def _backgrounds(
    volumes: "list[OpenVolume]", maps: "Images", folder: Path, threads: int
) -> "Records | None":
    """Return the subtracted background and the norm, summed over equivalents of all volumes.

    None if no background was subtracted. Measurements that are left out of S are part of the sums:
    their background per norm is that of the others.
    """
    import numpy as np

    from hklflow.nexus.scratch import mapped
    from hklflow.volumes import symmetrise

    if not any(volume.has_background for volume in volumes):
        return None
    grid = volumes[0].grid
    sizes = grid, 1, False, False, not maps.exact
    # In a temporary file: the memory of the job is for the records of the counts.
    sums = symmetrise.Records(*sizes, mapped(folder, symmetrise.Records.size_of(*sizes)))
    for first in range(0, grid.array_shape[0], _PLANES):
        planes = slice(first, min(first + _PLANES, grid.array_shape[0]))
        total = np.zeros((2, 1, planes.stop - first, *grid.array_shape[1:]))
        for volume in volumes:
            found = [np.zeros_like(total[0]), volume.group["norm"][planes][None].astype(float)]
            if volume.has_background:
                found[0] = volume.background(planes)[None]
            symmetrise.leave_out_unusable(found)
            total += found
        sums.put((first, 0), list(total))
    symmetrise.apply(
        sums, maps, volumes[0].cell,
        n_sigma=np.inf, tolerance=0.0, bragg_radius=0.0, threads=threads,
    )  # fmt: skip
    return sums


def _tell_unusable(paths: list[Path], unusable: "NDArray[np.int64]") -> None:
    for path, n in zip(paths, unusable, strict=True):
        if n:
            print(
                f"warning: {path} has {n} voxels with infinite or NaN counts, norm or variance, or "
                "a negative norm or variance; they count as not measured"
            )


def _judge(
    examined: "Mapping[str, Any]", chi2: float | None, group: "SpaceGroup", params: Params
) -> "Findings":
    """Return findings on the operations and on the scatter of equivalents."""
    from hklflow.quality import agreement_gates

    limits = agreement_gates.AgreementLimits(
        params.told_chi2, params.told_asymmetry, params.max_asymmetry
    )
    findings = agreement_gates.of_operations(examined, group.laue, limits, params.told_slow)
    findings = findings.plus(*agreement_gates.of_equivalents(chi2, limits))
    return findings.checked(params.on_failure)


def _write(
    writer: "VolumeWriter",
    records: "Records",
    backgrounds: "Records | None",
    counts_type: Any,
    pool: int,
    threads: int,
) -> "tuple[Sections, Maps]":
    """Derive S and its errors, and write them slab by slab; return the planes for the picture."""
    from concurrent.futures import ThreadPoolExecutor
    from functools import partial

    import numpy as np

    from hklflow.plots.symmetrise import Maps
    from hklflow.plots.volumes import Sections
    from hklflow.transform import estimator

    sections = Sections(records.grid)
    planes = Maps(records.grid, sections.at[2])
    n_l = records.grid.array_shape[0]
    starts = range(0, n_l, _PLANES)
    for first in stage.progress(starts, len(starts), "slabs written"):
        last = min(first + _PLANES, n_l)
        low, high = max(first - pool, 0), min(last + pool, n_l)
        counts, norm, *rest = records.planes(low, high)
        variance = rest[0] if rest else None
        own = slice(first - low, last - low)
        data, errors = np.empty((2, *counts[own].shape), np.float32)
        derived = partial(
            estimator.derive, counts, norm, own,
            reach=pool, data=data, errors=errors, variance=variance,
        )  # fmt: skip
        with ThreadPoolExecutor(threads) as workers:
            list(workers.map(lambda rows, run=derived: run(rows=rows), writer.strips))
        many, chi2 = records.maps(first, last)
        arrays = {
            "data": data,
            "data_errors": errors,
            "counts": counts[own].astype(counts_type),
            "norm": norm[own],
            "multiplicity": many,
            "disagreement": chi2,
        }
        if variance is not None:
            arrays["variance"] = variance[own]
        if backgrounds is not None:
            subtracted, exposure = backgrounds.planes(first, last)
            per_norm = np.divide(
                subtracted, exposure, out=np.zeros_like(exposure), where=exposure > 0
            )
            arrays["background"] = per_norm * norm[own]
        writer.write(first, **arrays)
        sections.add(first, data, errors, norm[own])
        planes.add(first, many, chi2)
    return sections, planes


def _metrics(
    group: "SpaceGroup", maps: "Images", agreement: "Agreement", paths: list[Path]
) -> dict[str, Any]:
    """Return the figures of the symmetrised volume; refuse volumes without measured voxels."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.volumes import symmetrise_kernels as columns

    if agreement.total(columns.BEFORE) == 0:
        raise HklflowError(
            f"no voxel is measured in {', '.join(map(str, paths))}: the norm is 0 in all voxels; "
            "check the grid, the orientation and the masks of the transform"
        )
    halves = agreement.overall_half_correlation
    inside = agreement.total(columns.INSIDE)
    observed = agreement.total(columns.OBSERVED)
    dof, counts = agreement.total(columns.DOF), agreement.total(columns.COUNTS)
    before, after = agreement.coverage
    return {
        "Laue group": group.laue,
        "space group": group.symbol,
        "operations": len(group.laue_operations),
        "exact": maps.exact,
        "exact operations": len(maps.turns),
        "coverage before": agreement.total(columns.BEFORE) / inside,
        "coverage after": agreement.total(columns.AFTER) / inside,
        "observations": observed,
        "observations rejected": agreement.total(columns.REJECTED),
        "fraction rejected": agreement.total(columns.REJECTED) / observed if observed else None,
        "observations rejected by volume": {
            str(path): int(n) for path, n in zip(paths, agreement.rejected, strict=True)
        },
        "reduced chi2 of equivalents": agreement.total(columns.CHI2) / dof if dof else None,
        "degrees of freedom": dof,
        "R of equivalents": agreement.total(columns.SPREAD) / counts if counts > 0 else None,
        "CC1/2": None if np.isnan(halves) else halves,
        "by shell": {
            "edges in 1/Å": agreement.edges,
            "CC1/2": agreement.half_correlation,
            "orbits in CC1/2": agreement.table[:, columns.PAIRS],
            "reduced chi2": agreement.ratio(columns.CHI2, columns.DOF),
            "R": agreement.ratio(columns.SPREAD, columns.COUNTS),
            "coverage before": before,
            "coverage after": after,
        },
    }


def _notes(group: "SpaceGroup", params: Params, metrics: dict[str, Any]) -> dict[str, Any]:
    dealt = (
        ""
        if metrics["exact"]
        else "; multiplicity and disagreement are of the exact operations only; other images are "
        "interpolated between eight voxels (trilinear): errors are right for sums over regions"
    )
    kept = ("coverage before", "coverage after", "fraction rejected", "CC1/2")
    return {
        "operations": group.laue_operations.tolist(),
        "space_group": group.symbol,
        "laue_group": group.laue,
        "estimator": "data = counts / norm, both summed over distinct equivalent voxels" + dealt,
        "errors": (
            "sqrt(expected counts) / norm; counts are estimated from the voxel and its neighbours "
            f"within {params.pool} voxels (hklflow.transform.estimator)"
        ),
        **{name: metrics[name] for name in kept},
        "CC1/2 is": "the mean over shells of |Q|, weighted with orbits, without Bragg reflections",
        "reduced chi2 of equivalents": metrics["reduced chi2 of equivalents"],
        **{name: metrics[name] for name in ("failures", "warnings") if name in metrics},
    }


def _told(metrics: dict[str, Any]) -> str:
    chi2, halves = (
        "not known" if metrics[name] is None else f"{metrics[name]:.3f}"
        for name in ("reduced chi2 of equivalents", "CC1/2")
    )
    return (
        f"symmetrised by {metrics['Laue group']}: coverage "
        f"{100 * metrics['coverage before']:.1f} -> {100 * metrics['coverage after']:.1f} %, "
        f"{metrics['observations rejected']:.0f} of {metrics['observations']:.0f} measurements "
        f"left out, reduced chi2 of equivalents {chi2}, mean CC1/2 of the shells {halves}"
    )


if __name__ == "__main__":
    stage.command(main)
