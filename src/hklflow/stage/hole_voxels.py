"""Voxels of S(Q) that `fill` punches: radius of the reflections, positions, codes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow.stage.hole_settings import HoleSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.geometry.symmetry import SpaceGroup
    from hklflow.nexus import OpenVolume
    from hklflow.volumes.fill import Target

# 1/Å, used if the radius cannot be measured.
_USUAL_RADIUS = 0.2
# Radius of reflections that do not end where they can be measured, in shortest distances between
# positions. Voxels are left between the holes, but no maxima are modelled inside of them, which is
# done up to a third: a model would be fitted to tails of reflections.
_WIDE = 0.34


def check_radii(params: HoleSettings, target: "Target", group: "SpaceGroup") -> None:
    """Refuse radii for which the spheres of neighbouring reflections would overlap.

    Raises
    ------
    HklflowError
        If a radius is larger than half of the shortest distance between reflections.
    """
    from hklflow.base.errors import HklflowError
    from hklflow.volumes import punch

    distance = punch.shortest(target.cell, group)
    given: dict[str, tuple[Any, ...]] = {
        "radius": (params.radius if isinstance(params.radius, float) else None,),
        "radii": params.radii or (),
        "satellite_radius": (params.satellite_radius,),
    }
    for name, lengths in given.items():
        for length in lengths:
            if length is not None and not length <= distance / 2:
                raise HklflowError(
                    f"{name}: {length:g} 1/Å is more than half of the shortest distance between "
                    f"reflections, {distance:.4g} 1/Å, and the spheres would overlap; give a "
                    "smaller value"
                )


def read(
    volume: "OpenVolume",
    whole: Path | None,
    target: "Target",
    params: HoleSettings,
    group: "SpaceGroup",
) -> dict[str, Any]:
    """Read S and σ; return the radius to punch and what belongs to it, {} if it is given.

    Parameters
    ----------
    volume : OpenVolume
        Volume to fill.
    whole : Path or None
        Volume in which the radius is measured; None: the volume to fill.

    Returns
    -------
    dict
        Numbers for the metrics, and ``warnings``.
    """
    from hklflow import nexus
    from hklflow.base.errors import HklflowError

    measured = params.method == "bragg" and not params.radii and params.radius == "measured"
    if not measured or whole is None:
        warnings = _load(volume, target)
        width = _radius(params, target, group) if measured else {}
        return _with(width, warnings)
    with nexus.open_volume(whole) as other:
        if not other.grid.same_as(target.grid):
            raise HklflowError(
                f"{whole} has another grid ({other.grid.to_dict()}) than "
                f"{volume.group.file.filename} ({target.grid.to_dict()}); symmetrise both from "
                "transforms with one parent"
            )
        _load(other, target)
        width = _radius(params, target, group)
    return _with(width, _load(volume, target))


def _with(width: dict[str, Any], warnings: list[str]) -> dict[str, Any]:
    return width | {"warnings": [*width.get("warnings", []), *warnings]}


def read_measured(volume: "OpenVolume", target: "Target") -> None:
    """Read S of the measured voxels again: a model was subtracted and added, which rounds."""
    import numpy as np

    from hklflow.nexus import PLANES
    from hklflow.nexus.slabs import SlabReader
    from hklflow.volumes import fill

    stored = SlabReader(volume.group["data"])
    for first in range(0, target.data.shape[0], PLANES):
        own = slice(first, min(first + PLANES, target.data.shape[0]))
        measured = target.code[own] == fill.MEASURED
        np.copyto(target.data[own], stored.read(own.start, own.stop), where=measured)


def _load(volume: "OpenVolume", target: "Target") -> list[str]:
    """Read S and σ, some planes at a time; return a warning if σ is infinite in some voxels.

    Voxels with infinite σ are set to NaN, like voxels that were not measured.

    Raises
    ------
    HklflowError
        If σ of a measured voxel is negative or NaN.
    """
    import numpy as np

    from hklflow.nexus import PLANES
    from hklflow.nexus.slabs import SlabReader

    stored = SlabReader(volume.group["data"]), SlabReader(volume.group["data_errors"])
    infinite = 0
    for first in range(0, len(target.data), PLANES):
        data, errors = (array[first : first + PLANES] for array in (target.data, target.errors))
        stored[0].read_into(data, first)
        stored[1].read_into(errors, first)
        unusable = ~(errors >= 0) & np.isfinite(data)
        if unusable.any():
            _refuse(volume, first, unusable, data, errors)
        unknown = errors == np.inf
        infinite += int(np.count_nonzero(unknown & np.isfinite(data)))
        data[unknown] = errors[unknown] = np.nan
    if not infinite:
        return []
    return [f"σ is infinite in {infinite} voxels: they count as not measured"]


def _refuse(
    volume: "OpenVolume",
    first: int,
    unusable: "NDArray[np.bool_]",
    data: "NDArray[np.float32]",
    errors: "NDArray[np.float32]",
) -> None:
    """Raise an error that names the first voxel without a usable σ in planes from ``first`` on."""
    import numpy as np

    from hklflow.base.errors import HklflowError

    l, k, h = np.argwhere(unusable)[0]  # noqa: E741
    place = (volume.grid.axis(axis)[i] for axis, i in enumerate((h, k, first + l)))
    raise HklflowError(
        f"{volume.group.file.filename}: S({', '.join(f'{x:.4g}' for x in place)}) = "
        f"{data[l, k, h]:.4g} has σ = {errors[l, k, h]:.4g}, but σ of a measured voxel is 0 or "
        "larger; make the volume again with `symmetrise`"
    )


def _radius(params: HoleSettings, target: "Target", group: "SpaceGroup") -> dict[str, Any]:
    """Measure the radius to punch in the target; return numbers and warnings."""
    import numpy as np

    from hklflow.base.errors import HklflowError
    from hklflow.volumes import punch

    grid, cell = target.grid, target.cell
    positions = punch.bragg_positions(grid, cell, group, 1e-3, params.absences)
    try:
        profile = punch.measured_radius(target.data, target.errors, grid, cell, positions)
    except punch.WideError as error:
        radius = max(error.radius, _WIDE * punch.shortest(cell, group))
        return {
            "radius in 1/Å": radius,
            "warnings": [
                f"{error}; a radius of {radius:.3g} 1/Å is used instead: tails of "
                "reflections may remain outside of it, and with a smaller radius, maxima that are "
                "found inside of holes may be such tails"
            ],
        }
    except HklflowError as error:
        # Only a warning: a scan without strong reflections must not stop.
        edge = float(np.linalg.norm(target.edges, axis=1).max())
        radius = min(max(_USUAL_RADIUS, edge), 0.35 * punch.shortest(cell, group))
        return {
            "radius in 1/Å": radius,
            "warnings": [f"{error}; a radius of {radius:.3g} 1/Å is used instead"],
        }
    return {
        "radius in 1/Å": profile.radius,
        "reflections in the measured profile": profile.reflections,
    }


def punch_voxels(
    target: "Target", params: HoleSettings, group: "SpaceGroup", q_max: float, width: dict[str, Any]
) -> "tuple[dict[str, Any], NDArray[np.int64]]":
    """Set the codes of the voxels of a target whose codes are 0.

    Parameters
    ----------
    q_max : float
        1/Å.
    width : dict
        Result of `read`, without warnings.

    Returns
    -------
    dict, (4,) int array
        Numbers on radii and positions, and the number of voxels with each code.
    """
    import numpy as np

    from hklflow.geometry import lattice
    from hklflow.volumes import fill_kernels, karen, punch, punch_kernels

    grid, cell, mask = target.grid, target.cell, target.code
    numbers: dict[str, Any] = {"method": params.method}
    if params.method == "karen":
        # The window is not wider than the grid.
        half = np.minimum(np.ceil(params.window / 2 / grid.step), grid.shape).astype(int)[::-1]
        mask[:] = karen.outliers(target.data, target.errors, half, params.threshold)
        fill_kernels.symmetric_mask(mask, target.images)
    else:
        radii: Any = params.radii or width.get("radius in 1/Å", params.radius)
        numbers |= width
        bragg = punch.bragg_positions(grid, cell, group, radii, params.absences)
        punch.punch(mask, grid, cell, bragg, radii)
        numbers |= {"radius in 1/Å": radii, "positions": len(bragg)}
        if params.satellites:
            own = params.satellite_radius or radii
            wanted = params.satellites, params.order, target.operations
            satellites = punch.satellite_positions(grid, cell, group, own, *wanted)
            punch.punch(mask, grid, cell, satellites, own)
            numbers |= {"radius of satellites in 1/Å": own, "satellites": len(satellites)}
    axes = (grid.axis(i) for i in range(3))
    counts = punch_kernels.set_codes(target.data, mask, *axes, lattice.b_matrix(cell), q_max)
    numbers["voxels within q_max"] = int(counts[4])
    numbers["voxels within q_max outside of holes"] = int(counts[5])
    return numbers, counts[:4]
