"""Read and write reflection tables of DIALS (``.refl``) without DIALS.

The file is one msgpack array ``["dials::af::reflection_table", version, map]`` with ``nrows``,
``identifiers`` and ``data``: a map of columns ``[type, [n, bytes]]`` of little-endian C arrays.
The mask of a shoebox has 32 bits in version 1 and 8 bits in version 2. DIALS 3.12 reads version 1
only, later versions read both, so version 1 is written.

Pixels and frames are counted as in `hklflow.geometry.frames`, in the order (fast, slow, frame).
The frame z of DIALS is the number of the image: the frame of hklflow + number of the first
image - 1.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file

MAGIC = "dials::af::reflection_table"
SHOEBOX = "Shoebox<>"

# Bits of the column `flags`.
PREDICTED, OBSERVED, INDEXED, USED_IN_REFINEMENT, STRONG = 1, 2, 4, 8, 32

# Bits of a shoebox's mask.
VALID, FOREGROUND = 1, 4

_TYPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "bool": ("?", ()),
    "int": ("<i4", ()),
    "std::size_t": ("<u8", ()),
    "double": ("<f8", ()),
    "vec2<double>": ("<f8", (2,)),
    "vec3<double>": ("<f8", (3,)),
    "mat3<double>": ("<f8", (3, 3)),
    "int6": ("<i4", (6,)),
    "cctbx::miller::index<>": ("<i4", (3,)),
}
_HEAD = struct.Struct("<I6iB")  # of a shoebox: panel, bounding box, type of its data

#: A shoebox without voxels.
NO_SHOEBOX = bytes(_HEAD.size)


@dataclass(frozen=True, eq=False)
class Refl:
    """Reflection table.

    Attributes
    ----------
    columns : dict of str to array
        First dimension `nrows`. A column of shoeboxes is an object array of bytes, see
        `shoebox_moments`.
    identifiers : dict of int to str
        Identifiers of the experiments, by their number in the column ``id``.
    nrows : int
    version : int
        Version of the source file: 1 or 2.
    left_out : tuple of str
        Columns with a type that is not read, with their types.
    """

    columns: dict[str, NDArray[Any]]
    identifiers: dict[int, str]
    nrows: int
    version: int = 1
    left_out: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return self.nrows

    def select(self, keep: ArrayLike) -> "Refl":
        """Return the rows chosen by a mask or by indices."""
        rows = np.arange(self.nrows)[np.asarray(keep)]
        return replace(
            self,
            columns={name: column[rows] for name, column in self.columns.items()},
            nrows=len(rows),
        )

    def with_columns(self, columns: Mapping[str, NDArray[Any]]) -> "Refl":
        """Return a table with columns added or replaced."""
        return replace(self, columns={**self.columns, **columns})


def joined(tables: Sequence[Refl]) -> Refl:
    """Join the rows of several tables, with the columns that all tables have."""
    names = [name for name in tables[0].columns if all(name in t.columns for t in tables)]
    columns = {name: np.concatenate([t.columns[name] for t in tables]) for name in names}
    identifiers = {key: value for t in tables for key, value in t.identifiers.items()}
    return Refl(columns, identifiers, sum(t.nrows for t in tables))


def read_refl(path: str | Path) -> Refl:
    """Read a reflection table of version 1 or 2.

    Raises
    ------
    HklflowError
        If the file is absent, a pickle of an old DIALS, HDF5, truncated, or inconsistent.
    """
    path = Path(path)
    require_file(path, "reflection file")
    content = _unpack(path)
    if not (isinstance(content, list) and len(content) == 3 and content[0] == MAGIC):
        raise HklflowError(
            f"{path} is msgpack but not a reflection table of DIALS; give a .refl file"
        )
    _, version, table = content
    if version not in (1, 2):
        raise HklflowError(
            f"{path} is a reflection table of version {version}, but only versions 1 and 2 can be "
            "read; write it again with a DIALS version that writes one of these"
        )
    try:
        nrows, data = int(table["nrows"]), dict(table["data"])
        identifiers = {int(key): str(value) for key, value in table["identifiers"].items()}
        packed = {str(name): (str(kind), int(n), raw) for name, (kind, (n, raw)) in data.items()}
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise HklflowError(
            f"the reflection table in {path} is damaged ({type(error).__name__}: {error}); write "
            "it again"
        ) from None
    columns, left_out = {}, []
    for name, (kind, n, raw) in packed.items():
        if kind not in _TYPES and kind != SHOEBOX:
            left_out.append(f"{name} ({kind})")
            continue
        if n != nrows or not isinstance(raw, bytes):
            raise HklflowError(
                f"column {name} in {path} has {n} rows, but the table has {nrows}; write the file "
                "again"
            )
        columns[name] = _column(path, name, kind, n, raw)
    return Refl(columns, identifiers, nrows, int(version), tuple(left_out))


def _unpack(path: Path) -> Any:
    import msgpack

    content = path.read_bytes()
    if content[:1] in (b"\x80", b"(", b"c", b"]", b"}"):
        raise HklflowError(
            f"{path} is a pickle (DIALS before 2.0), and opening it could run code; read it with "
            "DIALS and write it again"
        )
    if content[:4] == b"\x89HDF":
        raise HklflowError(f"{path} is HDF5; write it as msgpack, the default of DIALS for .refl")
    try:
        # The size of the file limits the lengths in it.
        return msgpack.unpackb(content, strict_map_key=False)
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise HklflowError(
            f"{path} cannot be read as a reflection table ({type(error).__name__}: {error}); the "
            "file is truncated or comes from another program: copy or write it again"
        ) from None


def _column(path: Path, name: str, kind: str, n: int, raw: bytes) -> NDArray[Any]:
    if kind == SHOEBOX:
        rows = np.empty(n, dtype=object)
        rows[:] = _split(path, name, n, raw)
        return rows
    dtype, shape = np.dtype(_TYPES[kind][0]), _TYPES[kind][1]
    expected = n * dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    if n < 0 or len(raw) != expected:
        raise HklflowError(
            f"column {name} in {path} has {len(raw)} bytes where {n} rows need {expected}; write "
            "the file again"
        )
    return np.frombuffer(raw, dtype).reshape(n, *shape)


def _split(path: Path, name: str, n: int, raw: bytes) -> list[bytes]:
    """Cut the bytes of all shoeboxes at their ends, which follow from their bounding boxes."""
    rows, at = [], 0
    try:
        for _ in range(n):
            size = _HEAD.size + _voxels(raw, at) * {0: 0, 1: 12, 2: 9}[raw[at + _HEAD.size - 1]]
            rows.append(raw[at : at + size])
            at += size
    except (struct.error, IndexError, KeyError, ValueError):
        at = -1
    if at != len(raw):
        raise HklflowError(
            f"the shoeboxes of column {name} in {path} do not fit into its {len(raw)} bytes; write "
            "the file again"
        )
    return rows


def _voxels(raw: bytes, at: int = 0) -> int:
    _, x0, x1, y0, y1, z0, z1, _ = _HEAD.unpack_from(raw, at)
    if x1 < x0 or y1 < y0 or z1 < z0:
        raise ValueError("a box ends before it begins")
    return int((x1 - x0) * (y1 - y0) * (z1 - z0))


def _version_1(box: bytes) -> bytes:
    """Return the same shoebox with a mask of 32 bits."""
    if box[_HEAD.size - 1] != 2:
        return box
    n = _voxels(box)
    data, mask = box[_HEAD.size :][: 4 * n], box[_HEAD.size + 4 * n :][:n]
    wide = np.frombuffer(mask, np.uint8).astype("<i4").tobytes()
    return box[: _HEAD.size - 1] + b"\x01" + data + wide + box[_HEAD.size + 5 * n :]


@dataclass(frozen=True)
class ShoeboxMoments:
    """Moments of spots from their shoeboxes; arrays (n,), NaN and 0 for rows without voxels.

    Attributes
    ----------
    width_fast, width_slow, width_frame
        Standard deviations of the counts above the background of the box, pixels and frames.
    n_voxels, n_frames
        Number of strong (valid and foreground) voxels, and of frames with such voxels.
    maximum
        Largest counts of a strong voxel.
    background
        Mean background of the strong voxels.
    """

    width_fast: NDArray[np.float64]
    width_slow: NDArray[np.float64]
    width_frame: NDArray[np.float64]
    n_voxels: NDArray[np.int64]
    n_frames: NDArray[np.int64]
    maximum: NDArray[np.float64]
    background: NDArray[np.float64]


def shoebox_moments(boxes: Iterable[bytes]) -> ShoeboxMoments:
    """Return widths and sizes of spots from their shoeboxes (n,) of bytes."""
    rows = np.array([_moments(box) for box in boxes], dtype=np.float64).reshape(-1, 7)
    fast, slow, frame, n_voxels, n_frames, maximum, background = rows.T
    sizes = n_voxels.astype(np.int64), n_frames.astype(np.int64)
    return ShoeboxMoments(fast, slow, frame, *sizes, maximum, background)


def _moments(box: bytes) -> list[float]:
    _, x0, x1, y0, y1, z0, z1, kind = _HEAD.unpack_from(box)
    nothing = [np.nan, np.nan, np.nan, 0, 0, np.nan, np.nan]
    if kind == 0:
        return nothing
    shape = (z1 - z0, y1 - y0, x1 - x0)
    n = shape[0] * shape[1] * shape[2]
    data = np.frombuffer(box, "<f4", n, _HEAD.size).reshape(shape)
    bits = "<i4" if kind == 1 else "u1"
    mask = np.frombuffer(box, bits, n, _HEAD.size + 4 * n).reshape(shape)
    below = np.frombuffer(box, "<f4", n, len(box) - 4 * n).reshape(shape)
    strong = (mask & (VALID | FOREGROUND)) == VALID | FOREGROUND
    if not strong.any():
        return nothing
    position = np.argwhere(strong).astype(np.float64)
    counts = data[strong].astype(np.float64)
    weight = np.maximum(counts - below[strong], 0.0)
    if weight.sum() <= 0:
        return nothing
    centre = weight @ position / weight.sum()
    frame, slow, fast = np.sqrt(weight @ (position - centre) ** 2 / weight.sum())
    frames = len(np.unique(position[:, 0]))
    return [fast, slow, frame, len(position), frames, counts.max(), float(below[strong].mean())]


def write_refl(path: str | Path, refl: Refl) -> None:
    """Write a reflection table of version 1, which every DIALS since 2.0 reads.

    Raises
    ------
    HklflowError
        If columns have different lengths or a type that DIALS does not have.
    """
    import msgpack

    data = {}
    for name, column in refl.columns.items():
        if len(column) != refl.nrows:
            raise HklflowError(
                f"column {name} has {len(column)} rows, but the reflection table has {refl.nrows}; "
                "give columns of equal length"
            )
        kind = _kind(name, column)
        if kind == SHOEBOX:
            raw = b"".join(_version_1(box) for box in column)
        else:
            raw = np.ascontiguousarray(column, dtype=_TYPES[kind][0]).tobytes()
        data[name] = [kind, [refl.nrows, raw]]
    table = {"identifiers": dict(refl.identifiers), "nrows": refl.nrows, "data": data}
    Path(path).write_bytes(msgpack.packb([MAGIC, 1, table], use_bin_type=True))


def _kind(name: str, column: NDArray[Any]) -> str:
    """Return the name in DIALS of the type of a column."""
    if column.dtype == object:
        return SHOEBOX
    if name in ("id", "imageset_id", "panel", "flags") and column.ndim == 1:
        # DIALS requires these types, whatever the type of the numbers.
        return "std::size_t" if name in ("panel", "flags") else "int"
    number = {"b": "?", "i": "<i4", "u": "<u8", "f": "<f8"}.get(column.dtype.kind, "none")
    for kind, (dtype, shape) in _TYPES.items():
        if dtype == number and shape == column.shape[1:]:
            limits = np.iinfo(np.int32)
            if number == "<i4" and np.any((column < limits.min) | (column > limits.max)):
                break
            return kind
    raise HklflowError(
        f"column {name} of {column.dtype} {column.shape} has no type in DIALS; give numbers of "
        "32 bits (integers) or 64 bits (others), in rows of 1, 2, 3, 6 or 3 x 3"
    )
