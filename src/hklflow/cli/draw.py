"""Drawings of the data in a file, for `hklflow show --plot` and `hklflow slice`."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hklflow.base.errors import HklflowError, printable
from hklflow.base.system import no_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.formats.raw_frames import Frames
    from hklflow.geometry.grid import Grid
    from hklflow.nexus.plottable import Plottable
    from hklflow.plots.drawing import Drawing, Screen
    from hklflow.volumes.planes import Cut, Plane

_CENTRAL = {"hkl": ("h k 0", "h 0 l", "0 k l"), "xyz": ("x y 0", "x 0 z", "0 y z")}
_SUMMED = 10  # number of frames of a rotation in a mean
_STACKED = 6  # number of volumes of a stack that are drawn


# ------------------------------------------------------------------------------ output


def screen() -> "Screen":
    """Return the size of the terminal and if it can show colours.

    Colours are off in a pipe, on a dumb terminal, without UTF-8, and if NO_COLOR is set.
    """
    from hklflow.plots.drawing import Screen

    size = shutil.get_terminal_size((80, 40))
    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    utf8 = (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "") == "utf8"
    return Screen(
        max(20, size.columns),
        max(10, size.lines),
        terminal and utf8 and not os.environ.get("NO_COLOR"),
    )


def print_or_save(drawing: "Drawing", output: Path | None, diagnosis: str) -> None:
    """Write a drawing as PNG, or print it.

    Parameters
    ----------
    diagnosis : str
        Why the drawn product is diagnostic; empty for a reduced product, and for raw frames.

    Raises
    ------
    HklflowError
        If the name does not end in .png, or the folder does not exist.
    """
    drawing = _printable(drawing)
    if output is None:
        for line in drawing.lines(screen()):
            print(line)
        return
    if output.suffix.lower() != ".png":
        raise HklflowError(f"{output} is not the name of a picture; give one that ends in .png")
    from hklflow.plots.drawing import save
    from hklflow.stage import tags

    with published(output) as partial:
        save(drawing, partial)
        if diagnosis:
            tags.write(partial, [diagnosis], ".png")


def require_place(output: Path | None, source: Path, force: bool) -> None:
    """Raise an error if the output would overwrite a file; called before the computation.

    An existing picture or table is replaced only with ``force``, because its name does not show if
    hklflow wrote it. A NeXus file that is not a slice is a product and is never replaced.

    Raises
    ------
    HklflowError
        If the output is the source itself, not a regular file, an existing file, or a product.
    """
    if output is None or not os.path.lexists(output):
        return
    if output.exists() and output.samefile(source):
        raise HklflowError(f"{output} is the file to be drawn; give the output another name")
    if output.exists() and (reason := no_file(output)) is not None:
        raise HklflowError(f"{output} {reason}; give the output another name")
    if output.suffix.lower() == ".nxs" and not _is_slice(output):
        raise HklflowError(f"{output} exists and is not a slice; give the output another name")
    if not force:
        raise HklflowError(f"{output} exists already; --force replaces it")


def _is_slice(path: Path) -> bool:
    """Return True if `hklflow slice` wrote the NeXus file."""
    import h5py

    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return "entry/slice/data" in file and "entry/notes/plane" in file


def _printable(drawing: "Drawing") -> "Drawing":
    """Return a drawing without control characters in the titles and labels, which files supply."""
    texts: dict[str, Any] = {
        field.name: printable(text)
        for field in fields(drawing)
        if isinstance(text := getattr(drawing, field.name), str)
    }
    return replace(drawing, **texts)


@contextmanager
def published(output: Path, *, silent: bool = False) -> Iterator[Path]:
    """Give a temporary path in the folder of an output, and rename the file when it is complete.

    The path is then printed, unless ``silent`` is True.

    Raises
    ------
    HklflowError
        If the folder does not exist or is not writable.
    """
    import secrets

    from hklflow.base import publish

    if not output.parent.is_dir():
        raise HklflowError(f"there is no folder {output.parent}; make it first or correct the path")
    partial = publish.partial(output, secrets.token_hex(4))
    try:
        yield partial
        publish.publish([(partial, output)])
    except OSError as error:
        raise HklflowError(f"{output} cannot be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)
    if not silent:
        print(printable(str(output)))


# ------------------------------------------------------------------------------ drawings


def drawing_of(path: Path, inside: Sequence[str], frame: int | None = None) -> "Drawing":
    """Return the default plot of a file, or the plot of a dataset or group in the file.

    Parameters
    ----------
    path : Path
        NeXus product, or raw frames.
    inside : sequence of str
        Names of the groups and the dataset inside the file; empty: the default plot.
    frame : int, optional
        Number of the frame, from 0. None: the mean of some frames of a rotation.

    Raises
    ------
    HklflowError
        If the file has no plot.
    """
    import h5py

    from hklflow.formats.raw import IMAGE_SUFFIXES

    if not h5py.is_hdf5(path):
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return _of_frames(path, frame)
        raise HklflowError(
            f"{path} has no plot; NeXus files and raw frames (HDF5, CBF, TIFF) have one"
        )
    from hklflow.nexus.plottable import open_plottable

    with open_plottable(path, inside) as plottable:
        if plottable is not None:
            if _is_stack_of_frames(plottable):
                return _frames_picture(_DatasetFrames(plottable.signal), path.name, frame)
            if frame is not None:
                raise HklflowError(
                    f"--frame is for raw frames; {path} plots {plottable.signal.name}"
                )
            return _of_plottable(plottable, path)
    if inside:
        raise HklflowError(
            f"{path}/{'/'.join(inside)} has no default plot; name a dataset in it, as "
            "`hklflow show` lists them"
        )
    return _of_frames(path, frame)


def diagnosis_of(path: Path, inside: Sequence[str]) -> str:
    """Return why the plotted product is diagnostic; empty for a reduced product and raw frames."""
    import h5py

    from hklflow.nexus.plottable import open_plottable

    if not h5py.is_hdf5(path):
        return ""
    with open_plottable(path, inside) as plottable:
        return "" if plottable is None else plottable.diagnosis


def _is_stack_of_frames(plottable: "Plottable") -> bool:
    signal = plottable.signal
    return signal.ndim == 3 and not plottable.space and signal.dtype.kind in "iuf"


def _of_plottable(plottable: "Plottable", path: Path) -> "Drawing":
    import numpy as np

    from hklflow.plots.drawing import Curve, Mask, Picture

    signal = plottable.signal
    if signal.dtype.kind not in "iufb" or signal.ndim not in (1, 2, 3, 4) or not signal.size:
        raise HklflowError(
            f"{path} has no plot of {signal.name}, which is {_described(signal)}; give a path to "
            "numbers of 1 to 3 dimensions"
        )
    label = plottable.label(signal)
    if plottable.space:
        return _central(plottable)
    if signal.ndim == 2:
        values = signal[()]
        if plottable.name.endswith("mask") and values.dtype.kind in "uib":
            return Mask(plottable.title, values.astype(np.uint32))
        return Picture(plottable.title, measured(values), label)
    if signal.ndim != 1:
        raise HklflowError(
            f"{path} has no plot of {signal.name}, which is {_described(signal)} without axes of a "
            "volume; give a path to numbers of 1 to 3 dimensions"
        )
    axis = plottable.axis(0)
    values = signal[()].astype(np.float64)
    if axis is not None and (axis.dtype.kind not in "iuf" or axis.shape != signal.shape):
        axis = None
    x = np.arange(values.size, dtype=float) if axis is None else axis[()].astype(np.float64)
    sigma = None if plottable.errors is None else plottable.errors[()].astype(np.float64)
    # Draw rows of a table, such as peaks by frame number, as points, and scans as a line.
    steps = np.diff(x)
    even = steps.size > 0 and steps.min() > 0 and steps.max() < 1.5 * steps.min()
    joined = bool(even) and sigma is None
    name = "number" if axis is None else plottable.label(axis)
    return Curve(plottable.title, x, values, sigma, name, label, joined)


def _described(signal: Any) -> str:
    return f"{'x'.join(map(str, signal.shape)) or 'one value'} {signal.dtype}"


# ------------------------------------------------------------------------------ volumes


@dataclass(frozen=True)
class Volume:
    """Open volume with the settings to draw its planes."""

    plottable: "Plottable"
    grid: "Grid"
    metric: "NDArray[np.float64]"
    label: str
    diverging: bool
    near: float

    @property
    def direct(self) -> bool:
        """True for a volume in direct space, False in reciprocal space."""
        return self.plottable.space == "xyz"

    def cut(self, plane: "Plane", number: int | None = None) -> "Cut":
        """Return the values on a plane; ``number`` selects a volume of a stack."""
        from hklflow.volumes import planes

        signal = self.plottable.signal
        block = (signal.chunks or (1, 16, 64, 64))[-3:]
        if number is not None:
            signal = _Part(signal, number)
        elif self.needs_norm:
            signal = _Ratio(self.plottable)
        return planes.cut(signal, self.grid, plane, block)

    @property
    def needs_norm(self) -> bool:
        """True for the sums of one rotation, which are not yet divided by the norm."""
        group = self.plottable.group
        return self.plottable.name == "counts" and "norm" in group


class _Part:
    """One volume of a stack, with the indexing of a single volume."""

    def __init__(self, signal: Any, number: int) -> None:
        self._signal, self._number = signal, number

    def __getitem__(self, region: tuple[slice, ...]) -> "NDArray[Any]":
        values: NDArray[Any] = self._signal[(self._number, *region)]
        return values


class _Ratio:
    """Counts divided by norm; NaN in unmeasured voxels."""

    def __init__(self, plottable: "Plottable") -> None:
        self._group = plottable.group

    def __getitem__(self, region: tuple[slice, ...]) -> "NDArray[Any]":
        import numpy as np

        counts, norm = (self._group[name][region].astype(np.float64) for name in ("counts", "norm"))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(np.where(norm > 0, counts / norm, np.nan))


def volume_of(plottable: "Plottable") -> Volume:
    """Return a volume with the settings to draw its planes.

    Raises
    ------
    HklflowError
        If the file has no grid or no cell.
    """
    from hklflow.plots.planes import near_origin
    from hklflow.volumes import planes

    direct, notes = plottable.space == "xyz", plottable.notes
    name = plottable.name
    label = "total PDF" if notes.get("kind") == "total" else "3D-ΔPDF"
    label = label if direct else "S(Q)"
    is_main = name in ("data", "counts")
    difference = notes.get("kind") == "difference"
    if difference:
        label = f"difference of {label}"
    return Volume(
        plottable,
        plottable.grid(),
        planes.metric_of(plottable.cell(), direct),
        label if is_main else name.replace("_", " "),
        is_main and (direct or difference),
        near_origin(notes),
    )


def _central(plottable: "Plottable") -> "Drawing":
    """Return the central planes of a volume, or one central plane of some volumes of a stack."""
    from hklflow.plots.drawing import Planes
    from hklflow.volumes import planes

    volume = volume_of(plottable)
    wanted = [
        planes.parse(_through(volume, text), plottable.space) for text in _CENTRAL[plottable.space]
    ]
    if plottable.signal.ndim == 3:
        cuts = [volume.cut(plane) for plane in wanted]
    else:
        axis, n = plottable.axis(0), plottable.signal.shape[0]
        chosen = sorted(
            {round(i * (n - 1) / max(1, min(n, _STACKED) - 1)) for i in range(_STACKED)}
        )
        cuts = []
        for i in [i for i in chosen if i < n]:
            cut = volume.cut(wanted[0], i)
            unit = "" if axis is None else printable(str(axis.attrs.get("units", "")))
            place = i if axis is None else f"{axis[i]:g} {unit}".strip()
            cuts.append(replace(cut, plane=replace(cut.plane, text=f"{cut.plane.text}, {place}")))
    return Planes(
        plottable.title,
        cuts,
        volume.metric,
        volume.direct,
        volume.diverging,
        volume.label,
        volume.near,
    )


def _through(volume: Volume, text: str) -> str:
    """Return a central plane; if the grid does not contain 0, the plane through its middle."""
    words = text.split()
    i = words.index("0")
    axis = volume.grid.axis(i)
    if not axis[0] <= 0 <= axis[-1]:
        words[i] = f"{axis[len(axis) // 2]:.10g}"
    return " ".join(words)


# ------------------------------------------------------------------------------ frames


class _DatasetFrames:
    """Frames of an open dataset, with the interface of `Frames`."""

    def __init__(self, signal: Any) -> None:
        self.shape, self._signal = signal.shape, signal

    def read(self, start: int, stop: int) -> "NDArray[Any]":
        values: NDArray[Any] = self._signal[start:stop]
        return values


def _of_frames(path: Path, frame: int | None) -> "Drawing":
    from hklflow.formats import raw

    try:
        opened = raw.open_frames(path)
    except HklflowError as error:
        raise HklflowError(
            f"{path} has no plot: no default plot, and no frames ({error})"
        ) from error
    with opened:
        return _frames_picture(opened, path.name, frame)


def _frames_picture(frames: "Frames | _DatasetFrames", name: str, frame: int | None) -> "Drawing":
    import numpy as np

    from hklflow.plots.drawing import Picture

    n = frames.shape[0]
    if frame is not None:
        if not 0 <= frame < n:
            raise HklflowError(f"{name} has frames 0 to {n - 1}; there is no frame {frame}")
        return Picture(
            f"{name}, frame {frame} of {n}", measured(frames.read(frame, frame + 1)[0]), "counts"
        )
    chosen = np.unique(np.linspace(0, n - 1, min(n, _SUMMED)).round().astype(int))
    total = np.zeros(frames.shape[1:])
    for i in chosen:
        # A pixel that is masked in any frame is masked in the mean.
        total += measured(frames.read(int(i), int(i) + 1)[0])
    what = f"mean of {len(chosen)} of {n} frames" if n > 1 else "one frame"
    return Picture(f"{name}, {what}", total / len(chosen), "counts")


def measured(values: "NDArray[Any]") -> "NDArray[np.float64]":
    """Return the counts, with NaN for flagged pixels.

    Negative integers and the largest value of an unsigned type are flags.
    """
    import numpy as np

    shown = values.astype(np.float64)
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:
        shown[values == np.iinfo(values.dtype).max] = np.nan
    elif values.dtype.kind == "i":
        shown[values < 0] = np.nan
    return shown
