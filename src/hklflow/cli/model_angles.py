"""`hklflow model angles`: refined angles of the goniometer with errors, angles of the pixels."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hklflow.cli.publishing import published

if TYPE_CHECKING:
    from hklflow.orientation.product import Orientation

Row = tuple[str, str, float, float | None, str]


def angles(
    orientation: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    force: bool = False,
) -> None:
    """Print the refined angles of each rotation with their errors; write the angles of all pixels.

    The table has the angles of the goniometer, the rotation of its head and the offset of the
    crystal from the axis, and, under `all`, the other refined parameters. Values of `u`, `detector`
    and `wavelength` are changes by the last refinement. A value without an error was not refined.
    Angles of peaks are in the table of `hklflow peaks list`, and in the master file.

    Example: `hklflow model angles results/quartz/300K/orientation.json -o angles.nxs`

    Parameters
    ----------
    orientation
        orientation.json or converged.json.
    output
        NeXus file to write: polar angle 2θ and azimuth (as in NXRefine: from up, towards -x) in
        degrees, and |Q|, of the middle of each pixel, for each rotation.
    force
        Overwrite an existing file.
    """
    from hklflow import nexus, stage
    from hklflow.base.history import diagnoses
    from hklflow.nexus.pixel_angles import write_pixel_angles
    from hklflow.stage import tags

    refined = stage.read_orientation(orientation)
    history = stage.provenance(orientation)
    if output is not None:
        tags.require_name(output, orientation, "; ".join(diagnoses(history)))
    print("\t".join(("rotation", "parameter", "value", "error", "unit")))
    for rotation, name, value, sigma, unit in _rows(refined):
        error = "" if sigma is None else f"{sigma:.2g}"
        print("\t".join((rotation, name, f"{value:.7g}", error, unit)))

    def write(path: Path) -> list[str]:
        write_pixel_angles(path, refined.rotations)
        nexus.write_provenance(path, history)
        return []

    if output is not None:
        published([(output, write)], force)


def _rows(refined: "Orientation") -> Iterator[Row]:
    import numpy as np

    from hklflow.geometry.parameters import HEAD

    left = dict(refined.refined_parameters)

    def sigma(name: str) -> float | None:
        return left.pop(name).sigma if name in left else None

    def degrees(sigma: float | None) -> float | None:
        return None if sigma is None else float(np.degrees(sigma))

    for i, (name, rotation) in enumerate(refined.rotations.items()):
        goniometer, scan = rotation.goniometer, rotation.scan
        for j, axis in enumerate(goniometer.names):
            if j == goniometer.scan:
                start = degrees(sigma(f"scan_offset_{i}"))
                yield name, f"{axis} at the start", float(np.degrees(scan.start)), start, "degree"
                yield name, f"{axis} of a frame", float(np.degrees(scan.step)), None, "degree"
            elif axis == HEAD:
                turn = np.degrees(goniometer.axes[j] * goniometer.angles[j])
                for k, value in zip("xyz", turn.tolist(), strict=True):
                    yield (
                        name,
                        f"head about {k}",
                        value,
                        degrees(sigma(f"misorientation_{i}_{k}")),
                        "degree",
                    )
            else:
                yield name, axis, float(np.degrees(goniometer.angles[j])), None, "degree"
        if name in refined.offsets:
            length = float(np.linalg.norm(refined.offsets[name]))
            two = [left.pop(f"off_centre_{i}_{k}", None) for k in (1, 2)]
            square = sum((p.value * p.sigma) ** 2 for p in two if p is not None)
            error = 1e6 * square**0.5 / length if length > 0 and None not in two else None
            yield name, "offset of the crystal", 1e6 * length, error, "µm"
    for name, (value, error) in left.items():
        if name.startswith("detector_") and "rotation" not in name:
            yield "all", name, 1e6 * value, 1e6 * error, "µm"
        elif name.startswith(("u_", "detector_rotation", "misorientation")):
            yield "all", name, float(np.degrees(value)), float(np.degrees(error)), "degree"
        else:
            unit = "degree" if name in ("alpha", "beta", "gamma") else "Å"
            yield "all", name, value, error, unit
