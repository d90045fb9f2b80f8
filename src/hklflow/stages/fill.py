"""Remove the Bragg reflections from S(Q) and fill the holes; the diffuse scattering remains."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow import stage
from hklflow.stage import hole_checks, hole_voxels
from hklflow.stage.hole_settings import HoleSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.geometry.symmetry import SpaceGroup
    from hklflow.nexus import OpenVolume
    from hklflow.volumes.fill import Target
    from hklflow.volumes.hole_covariance import Prior
    from hklflow.volumes.tails import Tails

VERSION = 18

# Memory per voxel, measured: S, σ, code, and temporary arrays.
_BYTES_PER_VOXEL = 12


class Inputs(stage.Inputs):
    symmetrised: Path
    """Symmetrised S(Q)."""
    orientation: Path
    """Refined orientation of the scan, for its space group and cell."""
    whole: Path | None = None
    """Symmetrised S(Q) of all pixels, in which the radius of the reflections is measured. It is
    needed because the 3-D mask removes strong reflections from the volume to fill. None: the radius
    is measured in the volume to fill.
    """


class Outputs(stage.Outputs):
    filled: Path
    """S(Q) without Bragg reflections, its errors, and the punched voxels."""
    picture: Path
    """Slices before and after, and residuals of the fill."""
    metrics: Path
    """Filled fraction, and residuals of the fill in control holes (where S was measured)."""


class Settings(HoleSettings):
    """Settings of this stage in the configuration file."""


class Params(Settings):
    """Settings of the stage, and the title."""

    title: str = "S(Q)"
    """Title of the volume and its pictures."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Read, punch, compare the fill methods on control holes, fill, write."""
    from hklflow import nexus, plots
    from hklflow.base import heap
    from hklflow.plots import fill as pictures
    from hklflow.volumes import cosines, fill, hole_covariance, spectrum, tail_share
    from hklflow.volumes.control import best_of, controls
    from hklflow.volumes.fill_kernels import numbers_of
    from hklflow.volumes.refill import is_judged, refill, too_large

    heap.keep_freed()
    group = stage.read_orientation(inputs.orientation).group
    with nexus.open_volume(inputs.symmetrised) as volume:
        operations = _operations(volume, inputs.symmetrised)
        room = _room(volume.grid.array_shape, params, outputs)
        target = fill.Target(*room, volume.grid, volume.cell, operations)
        hole_voxels.check_radii(params, target, group)
        width = hole_voxels.read(volume, inputs.whole, target, params, group)
        q_max, warnings = _extent(target, params)
        warnings += width.pop("warnings", [])
        metrics, n = hole_voxels.punch_voxels(target, params, group, q_max, width)
        within = metrics["voxels within q_max outside of holes"] > n[fill.UNMEASURED]
        hole_checks.require_scattering(target, within, q_max, str(inputs.symmetrised))
        l = _shown(target)  # noqa: E741
        before = target.data[l].copy()
        unmeasured = n[fill.UNMEASURED] / max(metrics["voxels within q_max outside of holes"], 1)
        memory = _memory_of_spectrum(target.data.shape, params)
        missing = spectrum.bytes_needed(target.data.shape) - memory
        learns = params.spectrum or params.tails
        doubts = hole_checks.too_little(unmeasured) if learns else []
        tails = None if doubts else _tails(target, params, group, q_max, metrics)
        if params.spectrum and missing > 0:
            doubts.append(too_large(missing))
        not_in_sigma = list(doubts)
        if tails is not None:
            if params.spectrum and not doubts:
                tail_share.weigh(target, tails, q_max, threads, stage.progress, memory)
            elif tails.found:
                tails.weigh(*tail_share.usual())
            metrics["maxima inside of holes"] = tails.summary()
            not_in_sigma += hole_checks.tails(tails)
            tails.subtract()
        holes = fill.find_holes(target, numbers_of(target.code, fill.PUNCHED, fill.PUNCHED))
        found = controls(target, holes, q_max)
        model = best_of(found, fill.BEST)
        refilled = params.spectrum and not doubts and is_judged(found, model)
        done = fill.fill(
            target,
            model,
            lambda items, total: stage.progress(items, total, "holes filled", lambda step: step),
            rough=refilled,
        )
        prior, tested = None, []
        if refilled:
            given = target, holes, found, model, q_max, threads, stage.progress
            model, doubts, again = refill(*given, rough=True, memory=memory)
            if tails is not None:
                tails.settle(again)
            if again is not None:
                prior = hole_covariance.prior_of(target, again, tails)
                tested = cosines.injected(target, again, prior)
                del again
            not_in_sigma += doubts
        elif tails is not None:
            tails.settle(None)
        del holes
        if tails is not None and tails.found:
            tails.restore()
            hole_voxels.read_measured(volume, target)
        metrics |= {
            "q_max in 1/Å": q_max,
            "voxels punched and filled": int(n[fill.PUNCHED]),
            "voxels not measured and filled": int(n[fill.UNMEASURED]),
            "voxels not measured and left": int(n[fill.LEFT]),
            "punched fraction of the measured": n[1] / max(n[0] + n[1], 1),
            "fraction not measured within q_max": unmeasured,
            "holes filled": done["holes"],
            "shapes of holes": done["shapes"],
            "voxels filled from the level of their shell": done["voxels by shell"],
            "interpolant": model,
            **hole_checks.told(found, model),
        }
        of_cosines = hole_checks.of_cosines(tested)
        not_in_sigma += of_cosines.pop("warnings")
        metrics |= of_cosines
        metrics["warnings"] += [*warnings, *not_in_sigma]
        metrics["warnings"] += hole_checks.much(unmeasured)
        metrics["warnings"] += volume.doubts
        notes = {"q_max": q_max, "fill": metrics}
        notes |= {"doubts": metrics["warnings"], "not in sigma": not_in_sigma}
        _write(target, volume, outputs.filled, params.title, notes, prior)
        control = (found[model].pulls, model) if model in found else None
        images = before, target.data[l], target.code[l]
        cell = volume.cell
        figure = pictures.fill(
            target.grid, cell, (2, l), *images, control, tested, q_max, params.title
        )
    plots.save(figure, outputs.picture)
    stage.write_json(outputs.metrics, metrics)
    rms = f"{found[model].rms:.2f} σ" if model in found else "not known"
    print(
        f"punched {100 * metrics['punched fraction of the measured']:.2f} % of the measured "
        f"voxels, filled {n[1] + n[2]} voxels by {model}; rms error in control holes, without "
        f"noise: {rms}"
    )
    for warning in metrics["warnings"]:
        print(f"warning: {warning}")


def _in_memory(shape: tuple[int, ...], params: Params) -> bool:
    """Return True if S, σ and code are kept in memory; if not, the spectrum has all of it."""
    import numpy as np

    from hklflow.volumes import spectrum

    needed = _BYTES_PER_VOXEL * np.prod(shape, dtype=float)
    if params.spectrum:
        # Correlations are usually shorter than half of the largest r.
        needed += spectrum.bytes_needed(shape, tuple(n // 2 for n in shape))
    return bool(needed <= params.memory * 1e6)


def _shown(target: "Target") -> int:
    """Return the index of the plane to draw: h k 0, or the fullest if nothing of it is measured."""
    import numpy as np

    axis = np.abs(target.grid.axis(2))
    middle = int(np.argmin(axis))
    if np.isfinite(target.data[middle]).any():
        return middle
    measured = np.array([np.count_nonzero(np.isfinite(plane)) for plane in target.data])
    # Of equally full planes, as l and −l, the lower |l|.
    return int(np.lexsort((axis, -measured))[0])


def _memory_of_spectrum(shape: tuple[int, ...], params: Params) -> float:
    """Return the bytes that are left for the fill by the spectrum."""
    import numpy as np

    own = _BYTES_PER_VOXEL * np.prod(shape, dtype=float) if _in_memory(shape, params) else 0.0
    return float(params.memory * 1e6 - own)


def _room(
    shape: tuple[int, ...], params: Params, outputs: Outputs
) -> "tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]":
    """Return arrays for S, σ and code: in memory, or in temporary files next to the output."""
    import numpy as np

    from hklflow.nexus.scratch import Scratch

    if _in_memory(shape, params):
        return np.empty(shape, np.float32), np.empty(shape, np.float32), np.zeros(shape, np.uint8)
    folder = outputs.filled.parent
    data, errors = (Scratch(shape, np.float32, folder).array for _ in range(2))
    return data, errors, Scratch(shape, np.uint8, folder).array


def _operations(volume: "OpenVolume", path: Path) -> "NDArray[np.int64]":
    """Return the Laue operations with which a volume was symmetrised."""
    import numpy as np

    from hklflow.base.errors import HklflowError

    if "punched" in volume.group:
        raise HklflowError(
            f"{path} is filled already (it has `punched`); give the symmetrised volume"
        )
    if "operations" not in volume.notes:
        raise HklflowError(
            f"{path} is not symmetrised (it has no note of Laue operations); run "
            "`hklflow symmetrise` on it first"
        )
    return np.asarray(volume.notes["operations"], dtype=np.int64)


def _extent(target: "Target", params: Params) -> tuple[float, list[str]]:
    """Return q_max in 1/Å, and warnings about shells within it."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.nexus import PLANES
    from hklflow.transform.shells import Shells

    shells = Shells(target.grid, target.cell)
    for first in range(0, target.data.shape[0], PLANES):
        own = slice(first, first + PLANES)
        shells.add(first, np.isfinite(target.data[own]).astype(np.float32))
    if params.q_max is not None:
        return params.q_max, hole_checks.gaps(shells, params.q_max, params.coverage)
    measured = np.flatnonzero(shells.seen >= params.coverage * np.maximum(shells.inside, 1))
    if not len(measured):
        best = (shells.seen / np.maximum(shells.inside, 1)).max()
        raise HklflowError(
            f"coverage: no shell of |Q| is measured to {100 * params.coverage:g} %, the best shell "
            f"to {100 * best:.0f} %; set q_max, or lower coverage"
        )
    # Distance from 0 to the faces of the grid, at the outer ends of the voxels.
    last = target.grid.first + target.grid.step * (np.array(target.grid.shape) - 1)
    limits = np.minimum(np.abs(target.grid.first), np.abs(last)) + target.grid.step / 2
    inscribed = float(np.min(limits * 2 * np.pi / np.asarray(target.cell)[:3]))
    q_max = min(inscribed, float(shells.edges[measured[-1] + 1]))
    return q_max, hole_checks.gaps(shells, q_max, params.coverage)


def _tails(
    target: "Target", params: Params, group: "SpaceGroup", q_max: float, metrics: dict[str, Any]
) -> "Tails | None":
    """Fit the model of the maxima in the holes of reflections; None if `tails` is off."""
    import numpy as np

    from hklflow.volumes import punch
    from hklflow.volumes.tails import Tails

    if not params.tails or params.method == "karen":
        return None
    radii = metrics["radius in 1/Å"]
    positions = punch.bragg_positions(target.grid, target.cell, group, radii, params.absences)
    return Tails(target, positions, float(np.max(radii)), q_max)


def _write(
    target: "Target",
    volume: "OpenVolume",
    path: Path,
    title: str,
    notes: dict[str, Any],
    prior: "Prior | None",
) -> None:
    import numpy as np

    from hklflow.nexus import BACKGROUND_NOTES, PLANES
    from hklflow.nexus.grid_writer import GridWriter
    from hklflow.nexus.lattice_vectors import write_prior
    from hklflow.volumes import fill

    types = {"data": np.float32, "data_errors": np.float32, "punched": np.uint8}
    if volume.has_background:
        types["data_background"] = np.float32
    with GridWriter(path, target.grid, target.cell, title, types) as writer:
        for first in range(0, target.data.shape[0], PLANES):
            own = slice(first, first + PLANES)
            arrays: dict[str, NDArray[Any]] = {
                "data": target.data[own],
                "data_errors": target.errors[own],
                "punched": target.code[own],
            }
            if volume.has_background:
                norm = volume.group["norm"][own]
                level = np.full(norm.shape, np.nan, np.float32)
                measured = (norm > 0) & (target.code[own] == fill.MEASURED)
                np.divide(volume.background(own), norm, out=level, where=measured, casting="unsafe")
                arrays["data_background"] = level
            writer.write_block((first, 0), **arrays)
        if prior is not None:
            writer.add_group(lambda entry: write_prior(entry, prior))
        names = ("operations", "space_group", *BACKGROUND_NOTES)
        kept = {name: volume.notes[name] for name in names if name in volume.notes}
        writer.note(kept | notes)


if __name__ == "__main__":
    stage.command(main)
