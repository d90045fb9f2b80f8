"""Difference of S(Q) and of the 3D-ΔPDF between a scan and a reference.

The errors of both scans are added in quadrature. Differences from the same reference contain the
same error of the reference, so they are not independent.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow import stage

if TYPE_CHECKING:
    from hklflow.nexus import OpenVolume

VERSION = 5

_PLANES = {False: ("h k 0", "h 0 l", "0 k l"), True: ("x y 0", "x 0 z", "0 y z")}
_NAMES = {False: "S(Q)", True: "3D-ΔPDF"}
_BOX = (16, 64, 64)  # voxels along l, k, h
_SAMPLE = 1_000_000  # largest number of voxels for the fit of the scale
_PLACES = 10


class Inputs(stage.Inputs):
    symmetrised: Path
    """Symmetrised S(Q) of the scan."""
    reference: Path
    """Symmetrised S(Q) of the reference."""
    delta_pdf: Path
    """3D-ΔPDF of the scan."""
    reference_pdf: Path
    """3D-ΔPDF of the reference."""


class Outputs(stage.Outputs):
    difference: Path
    """S(Q) of the scan minus S(Q) of the reference, with errors."""
    pdf_difference: Path
    """3D-ΔPDF of the scan minus 3D-ΔPDF of the reference, with errors."""
    picture: Path
    """Slices of both differences."""
    metrics: Path
    """Size and significance of the differences."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    subtract: str | None = None
    """Name of the scan that is subtracted; None: the parent."""
    match_scale: bool = False
    """Multiply S(Q) and 3D-ΔPDF of the reference by the factor that scales most of its S(Q) to the
    scan. The factor is fitted and reported in any case."""


class Params(Settings):
    """Settings of the stage, and the title."""

    title: str = "difference"
    """Title of the volumes and their pictures."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Find the scale, subtract slab by slab, draw planes."""
    from hklflow import plots
    from hklflow.nexus.volume import unlike_corrections
    from hklflow.plots import difference as pictures
    from hklflow.plots.planes import near_origin

    with ExitStack() as stack:
        hkl = _pair(stack, inputs.symmetrised, inputs.reference, direct=False)
        xyz = _pair(stack, inputs.delta_pdf, inputs.reference_pdf, direct=True)
        _require_one_kind(inputs, xyz)
        reaches = _reaches(xyz)
        near = max(near_origin(volume.notes) for volume in xyz)
        factor, factor_error = _fitted_scale(hkl, needed=params.match_scale)
        scale = factor if params.match_scale else 1.0
        operations = hkl[0].notes.get("operations")
        # The 3D-ΔPDF has the same doubts as S(Q): report each only once.
        doubts = list(dict.fromkeys([*hkl[0].doubts, *xyz[0].doubts]))
        doubts += [f"the reference: {x}" for x in dict.fromkeys([*hkl[1].doubts, *xyz[1].doubts])]
        doubts += unlike_corrections(("the scan", "the reference"), hkl)
        found = {
            _NAMES[direct]: _subtract(pair, path, params, scale, operations, direct, doubts)
            for pair, path, direct in (
                (hkl, outputs.difference, False),
                (xyz, outputs.pdf_difference, True),
            )
        }
    metrics = {
        **found,
        "scale that would match": factor,
        "scale that would match, sigma": factor_error,
        "scale applied to the reference": scale,
        "q_max (1/Å) of scan and reference": reaches,
        "warnings": doubts,
    }
    stage.write_json(outputs.metrics, metrics)
    drawn = (_cuts(outputs.difference, False), _cuts(outputs.pdf_difference, True))
    plots.save(pictures.differences(*drawn, params.title, near), outputs.picture)
    for sentence in doubts:
        print(f"warning: {sentence}")
    chi2 = ", ".join(
        f"{name}: reduced chi2 of no difference {figures['reduced chi2 of no difference']:.2f}"
        for name, figures in found.items()
        if figures["voxels"]
    )
    print(
        f"subtracted {params.subtract or 'the reference'} times {scale:.6g} "
        f"(fitted scale: {factor:.6g} ± {factor_error:.2g}); {chi2}"
    )


def _pair(
    stack: ExitStack, path: Path, reference: Path, direct: bool
) -> "tuple[OpenVolume, OpenVolume]":
    """Open the volumes of scan and reference."""
    from hklflow import nexus
    from hklflow.base.errors import HklflowError

    if path.samefile(reference):
        raise HklflowError(
            f"{path} is both scan and reference, so that the difference is 0; give another scan in "
            "`subtract`"
        )
    group = "pdf" if direct else "transform"
    one, other = (stack.enter_context(nexus.open_volume(p, group)) for p in (path, reference))
    for volume, own in ((one, path), (other, reference)):
        missing = [name for name in ("data", "data_errors") if name not in volume.group]
        if missing:
            raise HklflowError(
                f"{own} has no {' and no '.join(missing)} in `{group}`: it is not a volume with "
                "errors; give a symmetrised volume or a pair distribution"
            )
    nexus.require_one_grid([other, one], "make both on the grid of one parent")
    return one, other


def _require_one_kind(inputs: Inputs, pair: "tuple[OpenVolume, OpenVolume]") -> None:
    from hklflow.base.errors import HklflowError

    one, other = (volume.notes.get("kind", "unknown") for volume in pair)
    if one != other:
        raise HklflowError(
            f"{inputs.delta_pdf} is a pair distribution of the kind {one}, but "
            f"{inputs.reference_pdf} of the kind {other}; give two of the same kind"
        )


def _reaches(pair: "tuple[OpenVolume, OpenVolume]") -> list[float | None]:
    """Return q_max (1/Å) of both pair distributions; warn if they differ."""
    reaches: list[float | None] = [volume.notes.get("q_max") for volume in pair]
    known = [reach for reach in reaches if reach is not None]
    if len(known) == 2 and abs(known[0] - known[1]) > 0.01 * known[1]:
        print(
            f"warning: q_max of the pair distributions is {known[0]:g} and {known[1]:g} 1/Å: their "
            "resolution differs, and their difference has features at each peak; set the same "
            "q_max for both"
        )
    return reaches


def _fitted_scale(pair: "tuple[OpenVolume, OpenVolume]", needed: bool) -> tuple[float, float]:
    """Return the scale factor for the reference and its error, from a sample of voxels.

    The sample consists of boxes (whole chunks in the file), drawn at random with a fixed seed. Of
    each set of equivalent voxels only one is used, because equivalents have the same errors. If no
    factor can be fitted and none is needed, both results are NaN.
    """
    import itertools

    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.nexus.slabs import SlabReader
    from hklflow.volumes import difference, extrema

    one = pair[0]
    grid = one.grid
    readers = [SlabReader(v.group[n]) for v in pair for n in ("data", "data_errors")]
    operations = extrema.operations_of(one.notes.get("operations"), direct=False)
    starts = (range(0, n, step) for n, step in zip(grid.array_shape, _BOX, strict=True))
    boxes = list(itertools.product(*starts))
    axes = [grid.axis(i) for i in range(3)]
    parts: list[list[Any]] = [[np.empty(0)] for _ in readers]
    size = 0
    for place in np.random.default_rng(0).permutation(len(boxes)):
        region = tuple(slice(b, b + c) for b, c in zip(boxes[place], _BOX, strict=True))
        own = [axis[part] for axis, part in zip(axes, region[::-1], strict=True)]
        kept = extrema.asymmetric(operations, own)
        if not kept.any():
            continue
        l, k, h = region  # noqa: E741
        values = [reader.read(l.start, l.stop, k, h)[kept] for reader in readers]
        measured = np.isfinite(values[0]) & np.isfinite(values[2])
        for part, value in zip(parts, values, strict=True):
            part.append(value[measured])
        size += int(measured.sum())
        if size >= _SAMPLE:
            break
    a, sa, b, sb = (np.concatenate(part).astype(np.float64) for part in parts)
    try:
        return difference.fit_scale(a, sa, b, sb)
    except HklflowError as error:
        if needed:
            raise
        print(f"warning: {error}")
        return float("nan"), float("nan")


def _subtract(
    pair: "tuple[OpenVolume, OpenVolume]",
    path: Path,
    params: Params,
    scale: float,
    laue: list[Any] | None,
    direct: bool,
    doubts: list[str],
) -> dict[str, Any]:
    """Write the difference; return its size and its most significant points."""
    import numpy as np

    from hklflow import nexus
    from hklflow.nexus.slabs import SlabReader
    from hklflow.volumes import difference, extrema, planes

    one = pair[0]
    tally, strongest = difference.Tally(), extrema.Strongest(one.grid)
    metric = planes.metric_of(one.cell, direct)
    starts = range(0, one.grid.array_shape[0], nexus.PLANES)
    group = "pdf" if direct else "transform"
    title = f"{params.title}: {_NAMES[direct]}"
    types = {"data": np.float32, "data_errors": np.float32}
    readers = [SlabReader(volume.group[name]) for volume in pair for name in types]
    with nexus.GridWriter(
        path, one.grid, one.cell, title, types, group=group, direct=direct, signed=True
    ) as writer:
        for first in stage.progress(starts, len(starts), f"slabs of {_NAMES[direct]}"):
            last = first + nexus.PLANES
            a, sa, b, sb = (reader.read_again(first, last) for reader in readers)
            data, errors, significance = difference.subtract((a, sa), (b, sb), scale, tally)
            writer.write(first, data=data, data_errors=errors)
            strongest.add(significance)
        figures: dict[str, Any] = tally.figures()
        reached = [v.notes["q_max"] for v in pair if direct and "q_max" in v.notes]
        writer.note(
            {
                "kind": "difference",
                "errors": "errors of scan and reference, added in quadrature",
                "scale": scale,
                "doubts": doubts,
                **({"operations": laue} if laue else {}),
                **({"q_max": min(reached)} if reached else {}),
                **figures,
            }
        )
    points, strength = strongest.points()
    far = np.sqrt(np.einsum("ni,ij,nj->n", points, metric, points)) >= (1.0 if direct else 0.0)
    points, strength = points[far], strength[far]
    # A feature may be several voxels wide, so close points count as one.
    apart = 3.5 * float(np.max(one.grid.step * np.sqrt(np.diag(metric))))
    symmetry = extrema.operations_of(laue, direct)
    chosen = extrema.distinct(points, strength, _PLACES, symmetry, metric, apart)
    figures["most significant"] = _values(path, group, points[chosen], "xyz" if direct else "hkl")
    return figures


def _values(path: Path, group: str, points: Any, name: str) -> list[dict[str, Any]]:
    """Return the difference at some voxels."""
    import numpy as np

    from hklflow import nexus

    rows = []
    with nexus.open_volume(path, group) as volume:
        grid = volume.grid
        for point in points:
            h, k, l = np.rint((point - grid.first) / grid.step).astype(int)  # noqa: E741
            value, sigma = (float(volume.group[n][l, k, h]) for n in ("data", "data_errors"))
            rows.append(
                {name: point, "difference": value, "sigma": sigma, "significance": value / sigma}
            )
    return rows


def _cuts(path: Path, direct: bool) -> Any:
    """Return planes of a written difference, and the metric of their space."""
    from hklflow import nexus
    from hklflow.nexus.chunk_reader import reader
    from hklflow.volumes import planes

    with nexus.open_volume(path, "pdf" if direct else "transform") as volume:
        data = reader(volume.group["data"])
        cuts = [
            planes.cut(
                data, volume.grid, planes.parse(text, "xyz" if direct else "hkl"), data.chunks
            )
            for text in _PLANES[direct]
        ]
        return cuts, planes.metric_of(volume.cell, direct)


if __name__ == "__main__":
    stage.command(main)
