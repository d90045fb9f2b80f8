"""`hklflow slice`: draw any plane of a volume, or write its numbers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from hklflow.base.errors import HklflowError

if TYPE_CHECKING:
    from matplotlib.colors import Normalize
    from numpy.typing import NDArray

    from hklflow.cli.draw import Volume
    from hklflow.results.plane import PlaneValues
    from hklflow.volumes.planes import Cut

_NUMBERS = (".npy", ".tsv", ".nxs")


def slice_volume(
    file: Path,
    /,
    plane: list[str] | None = None,
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    log: Annotated[bool | None, Parameter(negative="--linear")] = None,
    limits: Annotated[
        tuple[str, str] | None, Parameter(name="--range", allow_leading_hyphen=True)
    ] = None,
    width: float = 0.0,
    errors: Annotated[bool, Parameter(negative="")] = False,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Draw a plane of a volume with its true angles, or write its numbers.

    Each point takes the value of the voxel that contains it; unmeasured voxels stay empty. The
    volume may be merged, symmetrised, filled, a difference, a pair distribution function, or the
    sums of one rotation.

    Example: `hklflow slice results/quartz/100K/transform.nxs hk0`;
    `hklflow slice FILE "h -h l" --width 0.2 -o x.png`;
    `hklflow slice results/quartz/100K/delta_pdf_transform.nxs xy0 -o x.tsv`

    Parameters
    ----------
    file
        File with a volume, or a file with the path of a volume or array inside.
    plane
        Three expressions of two letters: `hk0`, `h k 0.5`, `h0l`, `hhl`; `x y 0.5` for a pair
        distribution function. If a minus is before a letter, use quotes: `"h -h l"`.
    output
        Picture (.png), or numbers: .npy (only the image), .tsv (a row for each measured point),
        .nxs (with axes and errors). Default: draw the plane in the terminal.
    log
        Logarithmic or linear colours. Default: logarithmic; linear for values of both signs.
    limits
        Values of the lowest and highest colour, or percentiles of the plane, as `1% 99.5%`.
    width
        Mean over a slab of this thickness around the plane, in r.l.u. (unit cells for a pair
        distribution function): `h k 0` over l, `h h l` over h+t h-t l. All voxels with their centre
        in the slab count. Volumes with counts give the sum of counts over the sum of norm, other
        volumes the mean of their values, as `Volume.plane` in Python does.
    errors
        Show the standard deviations instead of the values.
    force
        Replace an existing picture, table or slice; other NeXus files are never replaced.
    """
    from hklflow.cli import draw
    from hklflow.cli.show import split
    from hklflow.nexus.plottable import open_plottable
    from hklflow.nexus.provenance import read_provenance, write_provenance
    from hklflow.plots.drawing import Planes
    from hklflow.results.plane import plane_of
    from hklflow.results.source import source_of
    from hklflow.stage import tags

    if not plane:
        raise HklflowError(f"which plane of {file}? For example hk0, or xy0 in direct space")
    if output is not None and output.suffix.lower() not in (".png", *_NUMBERS):
        raise HklflowError(
            f"{output} does not end in .png, {', '.join(_NUMBERS)}; give a name with one of "
            "these endings"
        )
    path, inside = split(file)
    _require_hdf5(path)
    draw.require_place(output, path, force)
    with open_plottable(path, inside) as plottable:
        if plottable is None or plottable.signal.ndim != 3 or not plottable.space:
            stack = plottable is not None and plottable.space and plottable.signal.ndim == 4
            cure = (
                "but a stack of volumes; give the volume of one scan"
                if stack
                else "see `hklflow show`; give a merged, symmetrised or filled "
                "volume, a difference, or a pair distribution"
            )
            raise HklflowError(f"{path} has no single volume of hkl or direct space, {cure}")
        volume = draw.volume_of(plottable)
        source = source_of(path, inside, plottable)
        title, name = plottable.title, str(plottable.signal.name)
        diagnosis = plottable.diagnosis
        has_errors = source.kind == "transform" or plottable.errors is not None
    if output is not None:
        tags.require_name(output, path, diagnosis)
    values = plane_of(source, " ".join(plane), width)
    if errors and not has_errors:
        raise HklflowError(f"{path} has no errors of {name}; leave out --errors")
    label = f"σ of {volume.label}" if errors else volume.label
    result = _Result(values, errors, has_errors, label, _thickness(values, width, volume.direct))
    if output is not None and output.suffix.lower() in _NUMBERS:
        with draw.published(output) as partial:
            _write(partial, output.suffix.lower(), result, volume, title, path, width)
            if output.suffix.lower() == ".nxs":
                write_provenance(partial, read_provenance(path))
            elif diagnosis:
                tags.write(partial, [diagnosis], output.suffix.lower())
        print(result.axes)
        return
    diverging = volume.diverging and not errors
    cut = result.cut
    cut = replace(cut, plane=replace(cut.plane, text=cut.plane.text + result.thick))
    drawing = Planes(
        title,
        [cut],
        volume.metric,
        volume.direct,
        diverging,
        result.label,
        volume.near,
        _norm(result, volume, diverging, log, limits),
    )
    draw.print_or_save(drawing, output, diagnosis)


def _thickness(values: "PlaneValues", width: float, direct: bool) -> str:
    """Return the text on a slab; empty for a single plane."""
    if not width:
        return ""
    unit = "cells" if direct else "r.l.u."
    what = {"ratio": "counts over norm", "mean": "mean"}[values.estimand]
    return f", {what} of up to {int(values.values.voxels.max())} voxels in {width:g} {unit}"


@dataclass(frozen=True)
class _Result:
    """Plane whose values or errors are the output."""

    values: "PlaneValues"
    errors: bool
    has_errors: bool
    label: str
    thick: str
    """Text on a slab; empty for a single plane."""

    @property
    def cut(self) -> "Cut":
        """Cut whose image contains the values or the errors."""
        from hklflow.volumes.planes import Cut

        found = self.values.values
        image = found.sigma if self.errors else found.value
        return Cut(self.values.plane, self.values.u, self.values.v, image)

    @property
    def sigma(self) -> "NDArray[Any] | None":
        """Standard deviations; None if the file has none."""
        return self.values.values.sigma if self.has_errors else None

    @property
    def measured(self) -> "NDArray[Any]":
        """Finite values of the cut."""
        import numpy as np

        values: NDArray[Any] = self.cut.image[np.isfinite(self.cut.image)]
        return values

    @property
    def axes(self) -> str:
        """Text on the rows and columns of the numbers."""
        cut = self.cut
        columns, rows = (
            f"{letter} from {axis[0]:g} to {axis[-1]:g}"
            + (f" in steps of {axis[1] - axis[0]:g}" if len(axis) > 1 else "")
            for letter, axis in zip(cut.plane.letters, (cut.u, cut.v), strict=True)
        )
        return (
            f"{cut.plane.text}{self.thick}: {len(cut.v)} rows ({rows}) of {len(cut.u)} columns "
            f"({columns})"
        )


def _require_hdf5(path: Path) -> None:
    import h5py

    if not h5py.is_hdf5(path):
        raise HklflowError(f"{path} is not an HDF5 (NeXus) file; give one with a volume")


# ------------------------------------------------------------------------------ colours


def _norm(
    result: _Result,
    volume: "Volume",
    diverging: bool,
    log: bool | None,
    limits: tuple[str, str] | None,
) -> "Normalize":
    """Return the scale of the colours."""
    import numpy as np
    from matplotlib.colors import LogNorm, Normalize

    from hklflow.plots.common import log_range
    from hklflow.plots.planes import symmetric_range

    if log and diverging:
        raise HklflowError(
            f"--log cannot show {result.label}, which has values of both signs; leave out --log"
        )
    logarithmic = not diverging if log is None else log
    values = result.measured
    if logarithmic and not (values > 0).any():
        raise HklflowError("--log cannot show a plane without positive values; use --linear")
    if limits is None:
        if diverging:
            return symmetric_range([result.cut], volume.metric, volume.direct, volume.near)
        if logarithmic:
            return log_range(values)
        low, high = (float(x) for x in np.percentile(values, [1.0, 99.0]))
        return Normalize(low, high if high > low else low + (abs(low) or 1.0))
    low, high = (_limit(word, values[values > 0] if logarithmic else values) for word in limits)
    if not low < high:
        raise HklflowError(f"--range {' '.join(limits)} is empty; give the lower end first")
    if logarithmic and low <= 0:
        raise HklflowError(f"--range {' '.join(limits)}: logarithmic colours begin above 0")
    return LogNorm(low, high) if logarithmic else Normalize(low, high)


def _limit(word: str, values: "NDArray[Any]") -> float:
    """Return the number in a word; for a percentage, the percentile of the values."""
    import numpy as np

    try:
        number = float(word.removesuffix("%"))
    except ValueError as error:
        raise HklflowError(
            f"--range {word} is not a number; give values, or percentiles such as 1%"
        ) from error
    if not np.isfinite(number) or (word.endswith("%") and not 0 <= number <= 100):
        raise HklflowError(f"--range {word} is neither a value nor a percentile from 0% to 100%")
    return float(np.percentile(values, number)) if word.endswith("%") else number


# ------------------------------------------------------------------------------ numbers


def _write(
    path: Path,
    suffix: str,
    result: _Result,
    volume: "Volume",
    title: str,
    source: Path,
    width: float,
) -> None:
    """Write the numbers of a plane."""
    import numpy as np

    cut = result.cut
    if suffix == ".npy":
        with path.open("wb") as file:  # with a name that ends in .NPY, numpy would append .npy
            np.save(file, cut.image)
    elif suffix == ".tsv":
        points = cut.plane.at(*np.meshgrid(cut.u, cut.v))
        columns = [*np.moveaxis(points, -1, 0), result.values.values.value]
        names = [*("xyz" if volume.direct else "hkl"), "value"]
        if result.sigma is not None:
            columns, names = [*columns, result.sigma], [*names, "error"]
        finite = np.isfinite(result.values.values.value)
        rows = np.stack([column[finite] for column in columns], axis=1)
        np.savetxt(path, rows, fmt="%.9g", delimiter="\t", header="\t".join(names), comments="")
    else:
        _write_nexus(path, result, volume, title, source, width)


def _write_nexus(
    path: Path, result: _Result, volume: "Volume", title: str, source: Path, width: float
) -> None:
    from hklflow.nexus.entry import add_array, add_group, create

    cut, unit = result.cut, "cells" if volume.direct else "r.l.u."
    name = f"{cut.plane.text} of {title}{result.thick}"
    with create(path, name, "slice") as entry:
        group = add_group(entry, "slice", "NXdata", signal="data", axes=cut.plane.letters[::-1])
        group["title"] = name
        for letter, axis in zip(cut.plane.letters, (cut.u, cut.v), strict=True):
            add_array(group, letter, axis, unit)
        add_array(group, "data", result.values.values.value, long_name=result.label)
        if result.sigma is not None:
            add_array(group, "data_errors", result.sigma)
        notes = add_group(entry, "notes", "NXcollection")
        notes["plane"], notes["source"] = cut.plane.text, source.name
        notes["width"] = width
        notes["estimand"] = result.values.estimand
