"""Symmetrise S(Q) by the Laue group: equivalent voxels' counts and norms are added."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.geometry.symmetry import SpaceGroup
    from hklflow.nexus import OpenVolume
    from hklflow.volumes.symmetrise import Agreement, Images, Records

VERSION = 3


class Inputs(stage.Inputs):
    volumes: list[Path] = Field(min_length=1)
    """Counts and norm: of each rotation, so that they can be compared, or merged."""
    orientation: Path
    """Refined orientation of the scan: its space group and cell."""


class Outputs(stage.Outputs):
    symmetrised: Path
    """S(Q) with errors, counts and norm, and maps of multiplicity and disagreement."""
    picture: Path
    """Slices, multiplicity, disagreement, and agreement of halves by shell."""
    metrics: Path
    """Agreement of equivalents, rejected outliers, coverage. CC1/2 is the mean of the shells of
    |Q|, weighted with their orbits, so that the fall of S with |Q| is not in it."""


class Settings(stage.Params):
    """What the configuration file sets."""

    symmetry: str | None = None
    """Space group whose Laue group is applied, in the setting of the cell; None: that of the
    orientation. `P 1` stands for inversion alone."""
    n_sigma: float = Field(6.0, ge=3.0)
    """A measurement of a voxel further than this from its equivalents is left out."""
    tolerance: float = Field(0.1, ge=0, le=1)
    """Relative disagreement of equivalents, beside the noise, that is allowed."""
    bragg_radius: float = Field(0.1, ge=0)
    """Voxels that reach so close (1/Å) to integer hkl are neither judged nor left out: sharp peaks
    fall differently into equivalent voxels, and would make halves agree whatever the diffuse signal
    does. 0: all are judged."""
    told_asymmetry: float = Field(0.02, gt=0)
    """Relative difference of S between mates of an operation, rms beyond noise, beyond what changes
    slowly with Q and beyond what Friedel mates and repeated voxels differ by, from which on the
    operation is told to be contradicted; it must also be significant, and twice theirs. Hexagonal
    voxels, which their own symmetry turns, differ by 1 % where S has features as narrow as they."""
    max_asymmetry: float = Field(0.1, gt=0)
    """Likewise, from which on the symmetrised volume has failed: of diffuse scattering on its
    background a difference of a tenth is most of the diffuse scattering."""
    told_slow: float = Field(0.03, gt=0)
    """Relative difference of mates that changes slowly with Q, from which on it is told: absorption
    that is not corrected, scales, background."""
    told_chi2: float = Field(2.0, gt=1)
    """Reduced χ² of equivalents from which on it is told: error bars, which are of noise alone, are
    1.4 times too small."""
    on_failure: Literal["stop", "warn"] = "warn"
    """What happens to a volume that misses a limit: "stop" fails it and everything made of it,
    "warn" records it and goes on."""
    pool: int = Field(2, ge=0, le=5)
    """Half-width in voxels of the neighbourhood whose pooled rate enters the error bars; 0: the
    voxel alone."""
    memory: float = Field(8000.0, gt=0)
    """MB for the volumes; what needs more is kept in a file beside the output while it is made."""


class Params(Settings):
    """Settings and the title."""

    title: str = "S(Q)"
    """Title of the volume and its pictures."""


# Planes that are read, and derived from at a time: one layer of a file's chunks.
_PLANES = 16


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Load all rotations, sum equivalents in place, derive S(Q) plane by plane."""
    from contextlib import ExitStack

    import numpy as np

    from hklflow import nexus, plots
    from hklflow.base.errors import HklflowError
    from hklflow.geometry.symmetry import space_group
    from hklflow.plots import symmetrise as pictures
    from hklflow.plots.volumes import Sections
    from hklflow.quality import agreement_gates
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
        maps = symmetrise.images(grid, group.laue_operations)
        if not maps.exact:
            print(
                f"warning: of {len(group.laue_operations)} operations of {group.laue}, only "
                f"{len(maps.turns)} take voxels of this grid to voxels; what the others give is "
                "dealt to the eight voxels around, which smooths S; equal steps along equivalent "
                "axes, with 0 in a voxel's centre, avoid that"
            )
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
        if metrics["coverage before"] == 0:
            raise HklflowError(
                f"nothing is measured in {', '.join(map(str, inputs.volumes))}: the norm is 0 in "
                "all voxels; check the grid, the orientation and the masks of the transform"
            )
        metrics["voxels without a usable norm"] = int(unusable.sum())
        limits = agreement_gates.AgreementLimits(
            params.told_chi2, params.told_asymmetry, params.max_asymmetry
        )
        findings = agreement_gates.of_operations(examined, group.laue, limits, params.told_slow)
        findings = findings.plus(
            *agreement_gates.of_equivalents(metrics["reduced chi2 of equivalents"], limits)
        )
        if findings.failures and params.on_failure == "stop":
            raise HklflowError(". ".join(findings.failures))
        metrics["operations compared"] = examined
        metrics |= findings.to_dict()
        sections = Sections(grid)
        planes = pictures.Maps(grid, sections.at[2])
        counts_type: Any = np.float64
        if maps.exact and all(volume.counts_are_whole for volume in volumes):
            counts_type = np.uint32 if records.counts.dtype == np.uint32 else np.uint64
        extra = {"multiplicity": np.uint8, "disagreement": np.float32}
        writer = stack.enter_context(
            nexus.VolumeWriter(
                outputs.symmetrised, grid, cell, params.title, counts_type, True,
                variance=records.noisy, extra=extra,
            )
        )  # fmt: skip
        _write(writer, records, params.pool, counts_type, sections, planes, threads)
        writer.note(_notes(group, params, metrics))
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
    """
    from hklflow.base.errors import HklflowError

    seen: dict[Path, Path] = {}
    for path in paths:
        if other := seen.get(path.resolve()):
            raise HklflowError(
                f"{path} is given twice{'' if path == other else f', also as {other}'}: its counts "
                "would be taken for two measurements, and errors come out too small; give it once"
            )
        seen[path.resolve()] = path


def _require_alike(paths: list[Path], volumes: "list[OpenVolume]") -> None:
    """Refuse volumes of different grids, and what has been symmetrised.

    Raises
    ------
    HklflowError
    """
    from hklflow.base.errors import HklflowError

    for path, volume in zip(paths, volumes, strict=True):
        if not volume.grid.same_as(volumes[0].grid):
            raise HklflowError(
                f"{path} has another grid ({volume.grid.to_dict()}) than {paths[0]} "
                f"({volumes[0].grid.to_dict()}); transform them with the same parent"
            )
        if "operations" in volume.notes:
            raise HklflowError(
                f"{path} is symmetrised already: its errors would come out too small; give the "
                "volumes of the rotations or the merged one"
            )


def _load(
    volumes: "list[OpenVolume]", maps: "Images", folder: Path, params: Params
) -> "tuple[Records, NDArray[np.int64]]":
    """Read all volumes, with counts as integers if sums of equivalents cannot overflow.

    Also returned: how many voxels of each volume were left out, for no S follows from them.
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
        # Beside them: planes as read, and as written with their neighbours.
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


def _tell_unusable(paths: list[Path], unusable: "NDArray[np.int64]") -> None:
    for path, n in zip(paths, unusable, strict=True):
        if n:
            print(
                f"warning: {path} has {n} voxels whose counts, norm or variance is infinite, not a "
                "number or (norm, variance) negative; they count as not measured"
            )


def _write(
    writer: Any,
    records: "Records",
    pool: int,
    counts_type: Any,
    sections: Any,
    planes: Any,
    threads: int,
) -> None:
    """Derive S and its errors, slab by slab."""
    from concurrent.futures import ThreadPoolExecutor
    from functools import partial

    import numpy as np

    from hklflow.transform import estimator

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
            estimator.derive,
            counts,
            norm,
            own,
            reach=pool,
            data=data,
            errors=errors,
            variance=variance,
        )
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
        writer.write(first, **arrays)
        sections.add(first, data, errors, norm[own])
        planes.add(first, many, chi2)


def _metrics(
    group: "SpaceGroup", maps: "Images", agreement: "Agreement", paths: list[Path]
) -> dict[str, Any]:
    import numpy as np

    from hklflow.volumes import symmetrise_kernels as columns

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
        else "; multiplicity and disagreement are of the exact operations alone, the other images "
        "are dealt to eight voxels with trilinear weights: errors are right for sums over regions"
    )
    kept = ("coverage before", "coverage after", "fraction rejected", "CC1/2")
    return {
        "operations": group.laue_operations.tolist(),
        "space_group": group.symbol,
        "laue_group": group.laue,
        "estimator": "data = counts / norm, both summed over distinct equivalent voxels" + dealt,
        "errors": (
            "sqrt(expected counts) / norm, expected from the voxel and its neighbours within "
            f"{params.pool} voxels (hklflow.transform.estimator)"
        ),
        **{name: metrics[name] for name in kept},
        "CC1/2 is": "the mean over shells of |Q|, weighted with their orbits, without Bragg",
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
