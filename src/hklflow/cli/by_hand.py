"""`hklflow model orient`: orient a crystal by hand, and show at once how well the peaks fit."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from hklflow.base.errors import HklflowError
from hklflow.cli.publishing import published

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.geometry import Rotation

_FARTHEST = 5.0  # degrees between the observed and the calculated angle of two peaks
_TOLERANCE = 0.25  # largest deviation of an indexed peak from whole Miller indices
_FEWEST = 8  # peaks by which the orientation is improved

Numbers = tuple[float, ...]


def orient(
    scan: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    cell: tuple[float, float, float, float, float, float] | None = None,
    peak: Numbers = (),
    zone: tuple[float, float, float, float] | None = None,
    ub: Numbers = (),
    space_group: str | None = None,
    peaks: Path | None = None,
    force: bool = False,
) -> None:
    """Orient a crystal by hand, print the residuals, and write a start for the refinement.

    Give two peaks with their hkl, or a zone axis and a peak, or a UB matrix. With a peak table, the
    orientation is then rotated to fit its peaks. The file is for `orientation: {start: FILE}`.

    Example: `hklflow model orient scan.nxs --cell 4.91 4.91 5.40 90 90 120 --peak 512.3 233.0 41.5
    1 0 0 --peak 230.1 644.2 87.0 0 1 1 --space-group "P 32 2 1" --peaks peaks.nxs -o start.json`

    Parameters
    ----------
    scan
        Scan file of the first rotation (`results/<sample>/<scan>/<rotation>/scan.nxs`).
    output
        JSON file to write, with the layout of orientation.json.
    cell
        a, b, c in Å and alpha, beta, gamma in degrees; not needed with --ub.
    peak
        Slow, fast (pixels; the centre of the first pixel is 0.5), frame (the middle of the first
        frame is 0.5), h, k, l. Repeat it for the second peak.
    zone
        u, v, w of the zone axis that points from the crystal to the source, and the frame on which
        the picture shows the zone; needs one peak, too.
    ub
        UB by rows, in 1/Å with 2π, in hklflow's goniometer frame with all angles at zero.
    space_group
        Space group of the cell. Default: not stated in the file.
    peaks
        Peak table of the same rotation.
    force
        Overwrite an existing file.
    """
    import numpy as np

    from hklflow import nexus
    from hklflow.geometry.model import Model, sound, to_orientation
    from hklflow.geometry.symmetry import space_group as known

    if space_group is not None:
        known(space_group)
    rotation = nexus.read_scan(scan).rotation
    if len(peak) % 6:
        raise HklflowError(
            f"--peak has {len(peak)} numbers; give slow, fast, frame, h, k and l of each peak"
        )
    rows = np.array(peak, np.float64).reshape(-1, 6)
    matrix = _matrix(rotation, cell, rows, zone, ub)
    _print_rows(rotation, matrix, rows)
    if peaks is not None:
        matrix = _fitted(rotation, matrix, peaks)
    model = sound(Model(rotation, matrix, space_group, name=scan.parent.name or "rotation"))

    def write(path: Path) -> Sequence[str]:
        path.write_text(json.dumps(to_orientation([model]), indent=1) + "\n", encoding="utf-8")
        return []

    published([(output, write)], force)


def _matrix(
    rotation: "Rotation",
    cell: Numbers | None,
    rows: "NDArray[np.float64]",
    zone: Numbers | None,
    ub: Numbers,
) -> "NDArray[np.float64]":
    """Return UB from the one way in which the orientation is given."""
    import numpy as np

    from hklflow.geometry import lattice
    from hklflow.orientation import by_hand

    ways = f"{len(rows)} peaks, {'a' if zone else 'no'} zone axis and {'a' if ub else 'no'} UB"
    if ub:
        if len(ub) != 9 or zone or cell:
            raise HklflowError(
                f"--ub has {len(ub)} numbers; give 9, by rows, without --zone and --cell"
            )
        return np.array(ub, np.float64).reshape(3, 3)
    if cell is None:
        raise HklflowError(f"{ways}, but no cell: give --cell a b c alpha beta gamma")
    if zone is not None and len(rows) == 1:
        return by_hand.from_zone(rotation, cell, zone[:3], zone[3], rows[0, :3], rows[0, 3:])
    if zone is not None or len(rows) != 2:
        raise HklflowError(f"{ways}: give two --peak, or --zone and one --peak, or --ub")
    slow, fast, frame = rows[:, :3].T
    seen = np.degrees(by_hand.angle(rotation.q_crystal(frame, slow, fast)))
    expected = np.degrees(by_hand.angle(rows[:, 3:] @ lattice.b_matrix(cell).T))
    if abs(seen - expected) > _FARTHEST:
        raise HklflowError(
            f"the angle between the scattering vectors of the two peaks is {seen:.2f}°, but "
            f"{expected:.2f}° for these hkl and this cell (limit of the difference "
            f"{_FARTHEST:g}°); check the hkl, the cell and the geometry"
        )
    return by_hand.from_peaks(rotation, cell, rows[:, :3], rows[:, 3:])


def _print_rows(
    rotation: "Rotation", ub: "NDArray[np.float64]", rows: "NDArray[np.float64]"
) -> None:
    """Print observed minus calculated positions of the given peaks."""
    import numpy as np

    from hklflow.orientation.by_hand import angle
    from hklflow.orientation.residuals import compare

    if not len(rows):
        return
    off, _ = compare(rotation, ub, rows[:, 3:], rows[:, :3])
    print("h k l\tQ/Q(calculated)\tangle/degrees\tslow\tfast\tframe (observed - calculated)")
    for row, difference in zip(rows, off, strict=True):
        g, model = rotation.q_crystal(row[2], row[0], row[1]), ub @ row[3:]
        ratio = np.linalg.norm(g) / np.linalg.norm(model)
        print(
            " ".join(f"{x:g}" for x in row[3:])
            + f"\t{ratio:.4f}\t{np.degrees(angle([g, model])):.2f}\t"
            + "\t".join(f"{x:+.2f}" for x in difference)
        )


def _fitted(rotation: "Rotation", ub: "NDArray[np.float64]", path: Path) -> "NDArray[np.float64]":
    """Rotate the orientation to fit a table of peaks, and print how many are indexed."""
    import numpy as np

    from hklflow import nexus
    from hklflow.geometry import lattice
    from hklflow.orientation.lattice_search import deviations
    from hklflow.orientation.refinement import realigned
    from hklflow.orientation.residuals import compare

    table = nexus.read_peaks(path)
    position = np.stack([table.slow, table.fast, table.frame], axis=1)
    position = position[np.isfinite(position).all(axis=1)]
    if len(position) < _FEWEST:
        print(f"{path} has {len(position)} peaks, too few to improve the orientation")
        return ub
    g = rotation.q_crystal(position[:, 2], position[:, 0], position[:, 1])
    u, cell = lattice.decompose_ub(ub)
    better = realigned(g, u, cell) @ lattice.b_matrix(cell)
    turn = np.degrees(lattice.rotation_angle(better @ np.linalg.inv(ub), np.eye(3)))
    for what, matrix in (("as given", ub), (f"rotated by {turn:.2f}° to fit", better)):
        indexed = deviations(matrix, g) < _TOLERANCE
        text = f"{what}: {indexed.sum()} of {len(g)} peaks within {_TOLERANCE:g} of integer hkl"
        if indexed.any():
            hkl = np.rint(g[indexed] @ np.linalg.inv(matrix).T)
            off, _ = compare(rotation, matrix, hkl, position[indexed])
            with np.errstate(all="ignore"):
                middle = np.nanmedian(np.abs(off), axis=0)
            text += ", median residuals {:.2g}, {:.2g} pixels, {:.2g} frames".format(*middle)
        print(f"{text} ({(2 * _TOLERANCE) ** 3:.0%} by chance)")
    counts = [int((deviations(matrix, g) < _TOLERANCE).sum()) for matrix in (ub, better)]
    return better if counts[1] >= counts[0] else ub
