"""VTK XML files with raw binary data, for ParaView and pyvista.

Points are Cartesian: B h in 1/Å with 2π, or r in Å. ``.vts`` is a structured grid with all points,
which every filter draws with its true angles and which takes three more numbers for each voxel.
``.vti`` is image data, for cells with right angles only: image data can state skewed axes, but
`vtkContourFilter` of VTK 9.7, behind the contours of ParaView and pyvista, then draws them wrong.

Format: https://docs.vtk.org/en/latest/vtk_file_formats/vtkxml_file_format.html
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.export.source import Slab, Source, as_json

_SIZE = 8  # bytes of the length before each array


def write(source: Source, path: Path) -> list[str]:
    """Write a volume as a structured grid, or as image data if the path ends in ``.vti``.

    Raises
    ------
    HklflowError
        If image data is asked for, and the axes are not at right angles.
    """
    grid, structured = source.grid, path.suffix.lower() == ".vts"
    if not structured:
        _require_right_angles(source)
    voxels = int(np.prod(grid.shape))
    arrays: list[tuple[str, int, Callable[[], Iterator[Any]]]] = []
    name = "pdf" if source.direct else "S"
    arrays.append((name, 1, lambda: (slab.data for slab in source.slabs())))
    if source.has_errors:
        arrays.append((f"{name}_sigma", 1, lambda: (_errors(slab) for slab in source.slabs())))
    if structured:
        arrays.append(("Points", 3, lambda: _points(source)))
    offsets, end = [], 0
    for _, components, _ in arrays:
        offsets.append(end)
        end += _SIZE + 4 * components * voxels
    tags = [
        f'<DataArray type="Float32" Name="{name}" NumberOfComponents="{components}" '
        f'format="appended" offset="{offset}"/>'
        for (name, components, _), offset in zip(arrays, offsets, strict=True)
    ]
    with path.open("wb") as file:
        file.write(_head(source, tags, structured).encode())
        for _, components, blocks in arrays:
            _append(file, 4 * components * voxels, blocks())
        file.write(b"\n</AppendedData>\n</VTKFile>\n")
    return [] if source.has_errors or source.only_errors else ["the product has no errors"]


def _require_right_angles(source: Source) -> None:
    basis = source.basis
    if np.abs(basis - np.diag(np.diag(basis))).max() > 1e-9 * np.abs(basis).max():
        angles = " ".join(f"{angle:.6g}°" for angle in source.lengths_and_angles[3:])
        raise HklflowError(
            f"the axes of {source.path} are at {angles}, and VTK draws wrong contours of image "
            "data (.vti) whose axes are not at right angles; give a target that ends in .vts"
        )


def _head(source: Source, tags: list[str], structured: bool) -> str:
    grid = source.grid
    kind = "StructuredGrid" if structured else "ImageData"
    extent = " ".join(f"0 {n - 1}" for n in grid.shape)
    place = ""
    points = ""
    if structured:
        *tags, last = tags
        points = f"<Points>{last}</Points>"
    else:
        numbers = {
            "Origin": source.basis @ grid.first,
            "Spacing": np.diag(source.basis) * grid.step,
        }
        place = "".join(f' {key}="{_words(value)}"' for key, value in numbers.items())
    codes = " ".join(str(code) for code in (*as_json(source.facts).encode("ascii"), 0))
    return (
        '<?xml version="1.0"?>\n'
        f'<VTKFile type="{kind}" version="1.0" byte_order="LittleEndian" header_type="UInt64">\n'
        f'<{kind} WholeExtent="{extent}"{place}>\n'
        '<FieldData><Array type="String" Name="hklflow" NumberOfTuples="1" format="ascii">\n'
        f"{codes}\n</Array></FieldData>\n"
        f'<Piece Extent="{extent}">\n'
        f'<PointData Scalars="{"pdf" if source.direct else "S"}">\n'
        + "\n".join(tags)
        + f"\n</PointData>\n<CellData/>\n{points}</Piece>\n</{kind}>\n"
        + '<AppendedData encoding="raw">\n_'
    )


def _words(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.16g}" for value in values)


def _append(file: BinaryIO, size: int, blocks: Iterator[Any]) -> None:
    file.write(np.array(size, "<u8").tobytes())
    for block in blocks:
        file.write(np.ascontiguousarray(block, "<f4").tobytes())


def _errors(slab: Slab) -> Any:
    return slab.errors


def _points(source: Source) -> Iterator[NDArray[np.float64]]:
    """Yield the Cartesian position of each voxel, plane by plane, (k, h, 3)."""
    h, k, l = (source.grid.axis(i) for i in range(3))  # noqa: E741
    basis = source.basis
    plane = h[None, :, None] * basis[:, 0] + k[:, None, None] * basis[:, 1]
    for value in l:
        yield plane + value * basis[:, 2]
