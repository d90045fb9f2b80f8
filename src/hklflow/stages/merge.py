"""Merge the rotations of one scan: add counts and norm, then derive S(Q) and its errors."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.nexus import OpenVolume, VolumeWriter
    from hklflow.plots.volumes import Sections
    from hklflow.quality.agreement_gates import Findings
    from hklflow.transform import estimator
    from hklflow.transform.shells import Shells
    from hklflow.volumes.pairs import Rotations

VERSION = 6

# With few counts per voxel, χ² of all voxels is that of the reflections, which alone have enough.
_AWAY = "rotations' reduced chi2 away from reflections"


class Inputs(stage.Inputs):
    volumes: list[Path]
    """Volumes of the rotations."""


class Outputs(stage.Outputs):
    volume: Path
    """S(Q) with errors, counts and norm."""
    slices: Path
    """Picture: slices hk0, h0l and 0kl."""
    coverage: Path
    """Picture: norm, relative error and coverage."""
    metrics: Path
    """Coverage and agreement of the rotations; warnings."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    pool: int = Field(2, ge=0, le=5)
    """Half-width in voxels of the neighbourhood whose pooled count rate enters the error bars; 0:
    only the voxel itself.
    """

    slab: int = Field(32, ge=1)
    """Number of planes of the volume that are in memory at a time."""

    told_chi2: float = Field(2.0, gt=1)
    """Reduced χ² between rotations, away from sharp peaks, above which it is reported. At 2 the
    error bars, which contain only noise, are 1.4 times too small. Volumes that agree better than
    noise allows are reported with the same factor.
    """
    told_difference: float = Field(0.03, gt=0)
    """Relative difference of S between a rotation and the others above which it is reported, if it
    is significant (rms without noise, away from sharp peaks). Monitors and smooth curves of
    transmission are accurate to 1 %; a larger difference has another cause.
    """
    max_difference: float = Field(0.2, gt=0)
    """Limit for the same difference; above it, the merged volume has failed. At 0.2, S is wrong by
    a tenth, and by a fifth in regions that only one rotation measured.
    """
    bragg_radius: float = Field(0.1, ge=0)
    """Radius in 1/Å around integer hkl; voxels that reach into it are not compared, because sharp
    peaks are divided differently between the voxels of each rotation. 0: all voxels are compared.
    """
    on_failure: Literal["stop", "warn"] = "warn"
    """Action for a volume beyond a limit. "stop": the job fails, and no products are made from the
    volume. "warn": the failure is recorded, and processing continues, so that the planes of each
    rotation can be inspected."""


class Params(Settings):
    """Settings of the stage, and the title."""

    title: str = "S(Q)"
    """Title of the volume and its pictures."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Add, divide and judge slab by slab, so that volumes may be larger than memory."""
    from contextlib import ExitStack
    from functools import partial

    import numpy as np

    from hklflow import nexus, plots

    with ExitStack() as stack:
        volumes = [stack.enter_context(nexus.open_volume(path)) for path in inputs.volumes]
        nexus.require_one_grid(volumes, "transform them with the same parent")
        grid, cell = volumes[0].grid, volumes[0].cell
        noisy = any(v.has_variance for v in volumes)
        dtype = np.uint64 if all(v.counts_are_whole for v in volumes) else np.float64
        writer = nexus.VolumeWriter(
            outputs.volume, grid, cell, params.title, dtype, True, variance=noisy,
            background=any(v.has_background for v in volumes),
        )  # fmt: skip
        stack.enter_context(writer)
        merged = _write(writer, volumes, params)
        names = [path.absolute().parent.name for path in inputs.volumes]
        if len(set(names)) < len(names):
            names = [str(path) for path in inputs.volumes]
        compared = merged.between.figures(names)
        findings = _judge(merged, names, compared, params)
        if (doubt := _partly_subtracted(volumes, names)) is not None:
            findings = findings.plus(doubt)
        metrics = _metrics(merged.sums, len(volumes), int(np.prod(grid.shape)))
        if len(volumes) > 1:
            metrics[_AWAY] = _mean_chi2(compared)
            metrics["rotations compared"] = compared
            metrics["largest difference"] = merged.between.map.worst(names)
            writer.add_group(
                partial(nexus.write_disagreement, found=merged.between.map, names=names)
            )
        metrics |= findings.to_dict()
        writer.note(
            {
                "estimator": "data = counts / norm (Poisson maximum likelihood)",
                "errors": (
                    f"sqrt({'expected variance' if noisy else 'expected counts'}) / norm, "
                    "estimated from the voxel and its neighbours "
                    f"within {params.pool} voxels (hklflow.transform.estimator)"
                ),
                "files": [str(path) for path in inputs.volumes],
                **nexus.corrections_note(volumes),
                **nexus.background_notes(volumes, names),
                **metrics,
            }
        )
    sections, shells = merged.sections, merged.shells
    plots.save(plots.slices(grid, cell, sections, params.title), outputs.slices)
    plots.save(plots.coverage(grid, cell, sections, shells, params.title), outputs.coverage)
    stage.write_json(outputs.metrics, metrics)
    chi2 = metrics.get(_AWAY)
    print(
        f"merged {len(volumes)} rotations: {100 * metrics['coverage']:.1f} % of voxels measured, "
        f"reduced chi2 between rotations away from reflections "
        f"{'not known' if chi2 is None else f'{chi2:.3f}'}"
    )
    for sentence in (*findings.failures, *findings.doubts):
        print(f"warning: {sentence}")


class _Merged(NamedTuple):
    """Summary of the merged volume, for its pictures and for the comparison of the rotations."""

    sections: "Sections"
    shells: "Shells"
    between: "Rotations"
    sums: "estimator.Sums"


def _write(writer: "VolumeWriter", volumes: "list[OpenVolume]", params: Params) -> _Merged:
    """Add the rotations, derive S and its errors, and write them slab by slab."""
    import numpy as np

    from hklflow.plots.volumes import Sections
    from hklflow.transform import estimator
    from hklflow.transform.shells import Shells
    from hklflow.volumes.pairs import Rotations

    grid, cell = volumes[0].grid, volumes[0].cell
    sections, shells, between = Sections(grid), Shells(grid, cell), Rotations(len(volumes), grid)
    sums = []
    for slab in _slabs(volumes, params, between):
        counts, norm = slab.counts[slab.own], slab.norm[slab.own]
        data, errors = np.empty((2, *counts.shape), np.float32)
        own = {"data": data, "data_errors": errors, "counts": counts, "norm": norm}
        if slab.variance is not None:
            own["variance"] = slab.variance[slab.own]
        if any(volume.has_background for volume in volumes):
            own["background"] = _background(volumes, slab.first, len(counts))
        derived = slab.counts, slab.norm, slab.own
        for rows in writer.strips:
            estimator.derive(*derived, rows, params.pool, data, errors, slab.variance)
            writer.write_rows(slab.first, rows, **own)
        sections.add(slab.first, data, errors, norm)
        shells.add(slab.first, norm)
        sums.append(slab.sums)
    return _Merged(sections, shells, between, estimator.Sums.of(sums))


def _background(volumes: "list[OpenVolume]", first: int, n: int) -> "NDArray[np.float64]":
    """Return the background that was subtracted from the counts of some planes."""
    import numpy as np

    planes = slice(first, first + n)
    subtracted = [v.background(planes) for v in volumes if v.has_background]
    return np.asarray(np.sum(subtracted, axis=0))


def _partly_subtracted(volumes: "list[OpenVolume]", names: list[str]) -> str | None:
    """Return a doubt if only some rotations have a background subtracted."""
    without = [n for n, v in zip(names, volumes, strict=True) if not v.has_background]
    if len(without) in (0, len(volumes)):
        return None
    return (
        f"no background was subtracted from {', '.join(without)}, but one was from the other "
        "rotations: give all rotations a background (`background: runs`)"
    )


def _mean_chi2(compared: list[dict[str, Any]]) -> float | None:
    """Return the reduced χ² of all rotations away from reflections; None without common voxels."""
    pairs = sum(row["pairs"] for row in compared)
    total = sum(row["pairs"] * row["reduced chi2"] for row in compared if row["pairs"])
    return total / pairs if pairs else None


def _metrics(sums: "estimator.Sums", n_rotations: int, n_voxels: int) -> dict[str, Any]:
    return {
        "rotations": n_rotations,
        "voxels measured": sums.measured,
        "voxels in the grid": n_voxels,
        "coverage": sums.measured / n_voxels,
        "mean counts per measured voxel": sums.counts / max(sums.measured, 1),
        "rotations' reduced chi2": sums.chi2 / sums.dof if sums.dof else None,
        "rotations' degrees of freedom": sums.dof,
    }


def _judge(
    merged: _Merged, names: list[str], compared: list[dict[str, Any]], params: Params
) -> "Findings":
    """Return findings on the agreement of the rotations."""
    from hklflow.quality import agreement_gates
    from hklflow.transform import estimator

    if copies := merged.between.copies(names):
        # With a copy, the rotations are not independent, and their χ² means nothing.
        return agreement_gates.of_copies(copies).checked(params.on_failure)
    limits = agreement_gates.AgreementLimits(
        params.told_chi2, params.told_difference, params.max_difference
    )
    findings = agreement_gates.of_rotations(compared, limits).checked(params.on_failure)
    doubt = estimator.dependence(merged.sums.chi2, merged.sums.dof)
    return findings if doubt is None else findings.plus(doubt)


# Approximate number of compared voxels of all rotations: larger volumes skip planes.
_COMPARED = 50_000_000


class _Slab(NamedTuple):
    """Sums over the rotations for some planes.

    Attributes
    ----------
    first : int
        First plane of the slab in the volume.
    counts, norm : (l, k, h) arrays
        Planes of the slab, with more planes on both sides for the errors, which need neighbours.
    own : slice
        Planes of the slab in ``counts`` and ``norm``.
    sums : estimator.Sums
        Sums over the planes of the slab.
    variance : (l, k, h) array or None
        Variance of the counts with read noise; None: the variance is the counts.
    """

    first: int
    counts: "NDArray[np.float64]"
    norm: "NDArray[np.float64]"
    own: slice
    sums: "estimator.Sums"
    variance: "NDArray[np.float64] | None"


def _slabs(volumes: "list[OpenVolume]", params: Params, between: "Rotations") -> "Iterator[_Slab]":
    """Yield the slabs; each plane is read only once, because the next slab is read ahead.

    The differences of the rotations are added to ``between``, for every n-th plane.
    """
    import numpy as np

    from hklflow.nexus import PLANES
    from hklflow.nexus.volume import SideBySide
    from hklflow.transform import estimator
    from hklflow.volumes import pairs

    grid, cell = volumes[0].grid, volumes[0].cell
    planes, n_k, n_h = grid.array_shape
    every = max(1, len(volumes) * planes * n_k * n_h // _COMPARED)
    rotations = SideBySide(volumes)
    # Two slabs are in memory; each consists of whole layers of the chunks in the files.
    size, margin = max(params.slab // (2 * PLANES), 1) * PLANES, params.pool
    # Sums of this slab and of the next slab; planes outside the volume stay 0.
    n_sums = 3 if rotations.noisy else 2
    now, then = (np.zeros((n_sums, size + 2 * margin, n_k, n_h)) for _ in range(2))

    def read(first: int, target: "NDArray[np.float64]") -> estimator.Sums:
        last, parts = min(first + size, planes), []
        for rows, found in rotations.strips(first, last):
            at = (margin, rows.start)
            if rotations.noisy:
                parts.append(estimator.add_noisy(found, list(target), at))
            else:
                parts.append(estimator.add(found[0], found[1], target[0], target[1], at))
            if len(volumes) > 1:
                some = slice(-first % every, None, every)
                region = (slice(first + some.start, last, every), rows, slice(None))
                away = pairs.away_from_bragg(grid, cell, params.bragg_radius, region)
                if away.any():
                    chosen = range(first + some.start, last, every)
                    between.add([part[:, some] for part in found], away, chosen, rows.start)
        return estimator.Sums.of(parts)

    sums = read(0, now)
    starts = range(0, planes, size)
    for first in stage.progress(starts, len(starts), "merged slabs"):
        last = min(first + size, planes)
        before, behind = min(margin, first), min(margin, planes - last)
        if last < planes:
            next_sums = read(last, then)
            now[:, margin + size : margin + size + behind] = then[:, margin : margin + behind]
            then[:, :margin] = now[:, size : size + margin]
        held = slice(margin - before, margin + last - first + behind)
        own = slice(before, before + last - first)
        variance = now[2, held] if rotations.noisy else None
        yield _Slab(first, now[0, held], now[1, held], own, sums, variance)
        if last < planes:
            now, then, sums = then, now, next_sums


if __name__ == "__main__":
    stage.command(main)
