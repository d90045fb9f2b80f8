"""`hklflow show`: print the content, the history or the plot of a product."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from hklflow.base.errors import HklflowError, printable
from hklflow.base.system import require_file

if TYPE_CHECKING:
    import h5py

_PICTURES = {".png", ".svg", ".pdf", ".jpg", ".jpeg", ".gif"}
_PICTURE = "a picture: open it in a viewer or a browser"
_WIDTH = 60  # largest number of letters of a text in the tree
_FEW = 12  # largest number of values that are printed individually
_MANY = 200_000_000  # number of values above which a summary reads only some planes


def show(
    file: Path,
    /,
    *,
    history: bool = False,
    plot: Annotated[bool, Parameter(negative="")] = False,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    frame: int | None = None,
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show the tree of a NeXus or JSON file, one of its values, its history, or its plot.

    In the tree, `*` marks the default plot and `->` a link. To show a group or a dataset, add its
    path to the file name. A large dataset is shown as a summary (minimum, maximum, mean).

    Example: `hklflow show results/quartz/100K/quartz_100K.nxs/entry/transform/data`;
    `hklflow show results/quartz/100K/transform.nxs --plot`; `hklflow show raw/scan.nxs -o x.png`

    Parameters
    ----------
    file
        File, or file with a path inside; raw frames (HDF5, CBF, TIFF) can be plotted.
    history
        Show every stage that led to the file: version, parameters, inputs with their hashes, and if
        the inputs have changed.
    plot
        Draw the default plot, or the dataset or group at the path inside, in the terminal: in
        colour, or in plain characters in a pipe or if NO_COLOR is set.
    output
        PNG file for the plot, instead of the terminal.
    frame
        Number of the raw frame to plot, from 0. Default: the mean of ten frames.
    force
        Replace an existing PNG file.
    """
    path, inside = split(file)
    if plot or output is not None or frame is not None:
        if history:
            raise HklflowError("--history and --plot exclude each other; give one of them")
        _plot(path, inside, output, frame, force)
        return
    lines: Iterator[str]
    if path.suffix.lower() == ".json":
        data = _json(path)
        lines = _history(path, _records(data)) if history else _json_lines(path, data, inside)
    else:
        if not _is_hdf5(path):
            raise HklflowError(f"{path} is {_what_else(path)}")
        lines = _history(path, _nexus_records(path)) if history else _nexus_lines(path, inside)
    for line in lines:
        print(printable(line))


def _plot(
    path: Path, inside: list[str], output: Path | None, frame: int | None, force: bool
) -> None:
    from hklflow.cli import draw
    from hklflow.stage import tags

    if path.suffix.lower() in _PICTURES:
        if output is not None:
            raise HklflowError(f"{path} is a picture already; copy it to {output}")
        print(printable(f"{path.resolve()} is {_PICTURE}"))
        return
    draw.require_place(output, path, force)
    drawing, diagnosis = draw.drawing_of(path, inside, frame), draw.diagnosis_of(path, inside)
    if output is not None:
        tags.require_name(output, path, diagnosis)
    draw.print_or_save(drawing, output, diagnosis)


def _what_else(path: Path) -> str:
    """Return a description of a file that is neither HDF5 nor JSON."""
    from hklflow.formats.raw import IMAGE_SUFFIXES

    if path.suffix.lower() in IMAGE_SUFFIXES:
        return "an image of a detector: --plot draws it"
    if path.suffix.lower() in _PICTURES:
        return _PICTURE
    return "neither HDF5 (NeXus) nor .json; text opens in any editor"


def split(given: Path) -> tuple[Path, list[str]]:
    """Split a path into the file and the path inside the file.

    Raises
    ------
    HklflowError
        If the file does not exist.
    """
    for path in (given, *given.parents):
        if path.is_dir():
            break
        if path.exists():
            require_file(path, "the file")
            return path, list(given.parts[len(path.parts) :])
    if given.is_dir():
        raise HklflowError(f"{given} is a folder; give a file in it")
    raise HklflowError(f"there is no file {given}; check the path")


def _is_hdf5(path: Path) -> bool:
    import h5py

    return bool(h5py.is_hdf5(path))


def _nothing(name: str, where: str, known: Any) -> HklflowError:
    names = ", ".join(map(str, known)) or "nothing"
    return HklflowError(f"there is no {name!r} in {where}; it holds {names}")


# ------------------------------------------------------------------------------- NeXus


def _nexus_lines(path: Path, inside: list[str]) -> Iterator[str]:
    import h5py
    import hdf5plugin  # noqa: F401  (compressed volumes need its filters)

    try:
        with h5py.File(path, "r") as file:
            node: Any = file
            for i, name in enumerate(inside):
                if not isinstance(node, h5py.Group):
                    raise HklflowError(f"{'/'.join(inside[:i])} of {path} is not a group")
                if node.get(name, getlink=True) is None:
                    raise _nothing(name, f"{path}/{'/'.join(inside[:i])}".rstrip("/"), node)
                if (below := node.get(name)) is None:
                    target = _target(node, name)
                    raise HklflowError(f"{path}: {name} leads to {target}, which does not exist")
                node = below
            if isinstance(node, h5py.Dataset):
                yield from _values(node, "/".join(inside))
                return
            yield "/".join([str(path), *inside])
            chain = list(_defaults(node))
            if chain:
                yield f"default plot: {'/'.join(chain)}"
            lost: list[str] = []
            yield from _tree(node, chain, "  ", lost)
            if lost:
                yield f"links that lead nowhere: {', '.join(lost)}"
    except OSError as error:
        raise HklflowError(
            f"{path} cannot be read ({' '.join(str(error).split())}); make it again"
        ) from error


def _defaults(group: "h5py.Group") -> Iterator[str]:
    """Yield the names that lead to the default plot: the `default` attributes, then `signal`."""
    node: Any = group
    while "default" in node.attrs:
        name = _word(node.attrs["default"])
        yield name
        if (node := node.get(name)) is None:
            return
    if "signal" in node.attrs:
        yield _word(node.attrs["signal"])


def _tree(group: "h5py.Group", chain: list[str], indent: str, lost: list[str]) -> Iterator[str]:
    import h5py

    for name in group:
        mark = "*" if chain[:1] == [name] else " "
        head = f"{indent[:-1]}{mark}{name}"
        node = group.get(name)
        target = _target(group, name) or _target_of_all(node)
        if target:
            head += f" -> {target}"
        if node is None:
            lost.append(f"{group.name}/{name}".replace("//", "/"))
            yield f"{head}  (not there)"
        elif isinstance(node, h5py.Dataset):
            yield f"{head}  {_about(node)}"
        elif target:
            # The tree of a linked group is printed at its own place.
            yield f"{head}  {_class(node)}"
        elif name == "workflow":
            yield f"{head}  {_class(node)}  {len(node)} stages, see --history"
        else:
            yield f"{head}  {_class(node)}".rstrip()
            yield from _tree(node, chain[1:] if mark == "*" else [], f"{indent}  ", lost)


def _target(group: "h5py.Group", name: str) -> str:
    """Return the target of a link; empty if the entry is not a link."""
    import h5py

    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        return f"{link.filename}:{link.path}"
    return str(link.path) if isinstance(link, h5py.SoftLink) else ""


def _target_of_all(node: Any) -> str:
    """Return the group that has all datasets which a group of a master file links, else nothing."""
    import h5py

    if not isinstance(node, h5py.Group):
        return ""
    copies = {"title", *_axes(node)}
    targets = {_target(node, name).removesuffix(f"/{name}") for name in node if name not in copies}
    return targets.pop() if len(targets) == 1 else ""


def _class(node: "h5py.Group") -> str:
    words = _word(node.attrs.get("NX_class", ""))
    if "signal" in node.attrs:
        names = _axes(node)
        words += f"  {_word(node.attrs['signal'])}" + (f"({', '.join(names)})" if names else "")
    return words


def _axes(node: "h5py.Group") -> list[str]:
    axes = node.attrs.get("axes", [])
    return [axes] if isinstance(axes, str) else [_word(axis) for axis in axes]


def _word(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _about(node: "h5py.Dataset") -> str:
    """Return the shape, type, value (if short) and unit of a dataset."""
    if node.shape is None:
        return "empty"
    words = []
    if node.shape:
        words.append("x".join(map(str, node.shape)))
    if node.dtype.kind not in "OSU":
        words.append(str(node.dtype))
    if node.size <= _FEW:
        words.append(f"= {_short(node)}")
    if "units" in node.attrs:
        words.append(_word(node.attrs["units"]))
    if node.is_virtual:
        words.append(_sources(node))
    return "  ".join(words)


def _short(node: "h5py.Dataset") -> str:
    value = node[()]
    value = _plain(value.tolist() if hasattr(value, "tolist") else value)
    if isinstance(value, str):
        text = " ".join(value.splitlines())
        if len(text) > _WIDTH:
            return f'"{text[: _WIDTH - 3]}..." ({len(text)} characters)'
        return f'"{text}"'
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _sources(node: "h5py.Dataset") -> str:
    """Return the number of source files of a virtual dataset, and the names of missing files."""
    folder = Path(node.file.filename).parent
    names = sorted({source.file_name for source in node.virtual_sources()})
    gone = [name for name in names if name != "." and not (folder / name).exists()]
    return f"virtual, of {len(names)} files" + (f", not there: {', '.join(gone)}" if gone else "")


def _values(node: "h5py.Dataset", inside: str) -> Iterator[str]:
    """Yield the lines about a dataset: its text, its values, or a summary of many values."""
    yield f"{inside}  {_about(node)}"
    for key in ("long_name", "description"):
        if key in node.attrs:
            yield f"  {_word(node.attrs[key])}"
    if node.shape == () and node.dtype.kind in "OSU":
        yield from _text(_word(node[()]))
    elif node.size and node.size > _FEW and node.dtype.kind in "biuf":
        yield from _summary(node)
    elif node.size:
        yield f"  {_plain(node[()].tolist())}"


def _text(text: str) -> Iterator[str]:
    try:
        yield from json.dumps(json.loads(text), indent=1, ensure_ascii=False).splitlines()
    except json.JSONDecodeError:
        yield from text.splitlines()


def _summary(node: "h5py.Dataset") -> Iterator[str]:
    """Yield the minimum, maximum and mean; of a very large dataset only some planes are read."""
    import numpy as np

    step = -(-node.size // _MANY)
    planes = range(0, node.shape[0], step)
    # Read whole chunks, so that each chunk is decompressed only once.
    thick = node.chunks[0] if node.chunks and step == 1 and node.ndim > 1 else 1
    if node.ndim == 1:
        thick = node.shape[0]
    n = finite = 0
    least, largest, total = np.inf, -np.inf, 0.0
    for first in planes[::thick]:
        values = np.asarray(node[first : first + thick], dtype=np.float64)
        good = values[np.isfinite(values)]
        n, finite = n + values.size, finite + good.size
        if good.size:
            least, largest = min(least, good.min()), max(largest, good.max())
            total += float(good.sum())
    if step > 1:
        yield f"  of {len(planes)} of {node.shape[0]} planes:"
    if finite:
        mean = total / finite
        yield f"  least {least:.6g}, largest {largest:.6g}, mean {mean:.6g}"
    if finite < n:
        yield f"  {n - finite} of {n} ({(n - finite) / n:.1%}) are not finite (not measured)"
    if node.ndim == 1:
        values = _plain([*node[:3].tolist(), *node[-3:].tolist()])
        yield f"  {', '.join(map(str, values[:3]))}, ..., {', '.join(map(str, values[3:]))}"


# ------------------------------------------------------------------------------- JSON


def _json(path: Path) -> Any:
    from hklflow import stage

    return stage.read_json(path)


def _json_lines(path: Path, data: Any, inside: list[str]) -> Iterator[str]:
    for i, name in enumerate(inside):
        if isinstance(data, list) and name.isdigit() and int(name) < len(data):
            data = data[int(name)]
        elif isinstance(data, Mapping) and name in data:
            data = data[name]
        else:
            where = "/".join([str(path), *inside[:i]])
            known = (
                data if isinstance(data, Mapping) else range(len(data)) if _is_list(data) else []
            )
            raise _nothing(name, where, known)
    yield "/".join([str(path), *inside])
    yield from _listed(data, "  ", inside == [])


def _is_list(data: Any) -> bool:
    return isinstance(data, list)


def _listed(data: Any, indent: str, top: bool = False) -> Iterator[str]:
    """Yield the names and values of a JSON object; a list of numbers is printed in one line."""
    if not isinstance(data, Mapping | list):
        yield f"{indent}{_value(data)}"
        return
    items = data.items() if isinstance(data, Mapping) else enumerate(data)
    for key, value in items:
        if top and key == "provenance":
            yield f"{indent}provenance: {len(value)} stages, see --history"
        elif isinstance(value, Mapping) and value:
            yield f"{indent}{key}:"
            yield from _listed(value, f"{indent}  ")
        elif isinstance(value, list) and any(isinstance(x, Mapping | list) for x in value):
            yield f"{indent}{key}: (list of {len(value)})"
            yield from _listed(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, list) and len(value) > _FEW:
        return f"{json.dumps(_plain(value[:3]))[:-1]}, ...] ({len(value)} values)"
    return value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False)


# ------------------------------------------------------------------------------- history


def _records(data: Any) -> list[dict[str, Any]]:
    return list(data.get("provenance", [])) if isinstance(data, Mapping) else []


def _nexus_records(path: Path) -> list[dict[str, Any]]:
    from hklflow import nexus

    return nexus.read_provenance(path)


def _history(path: Path, records: list[dict[str, Any]]) -> Iterator[str]:
    if not records:
        raise HklflowError(f"{path} has no history: hklflow did not make it, or only by hand")
    states: dict[tuple[str, str], str] = {}
    for i, record in enumerate(records, 1):
        yield (
            f"{i}. {record['stage']} {record['stage_version']} ({record['program']} "
            f"{record['version']}), {record['started']}, {record['seconds']:g} s"
        )
        for key, value in record["params"].items():
            yield f"   {key} = {json.dumps(value, ensure_ascii=False)}"
        for item in record.get("calibrations", []):
            yield f"   calibration {item['kind']} {item['state_id']} version {item['version']}"
        for field, inputs in record["inputs"].items():
            for item in inputs:
                key = (item["path"], item["sha256"])
                if key not in states:
                    states[key] = _state(path, *key)
                yield f"   {field}: {key[0]}  {states[key]}"
                yield f"      sha256 {key[1]}"
    all_states = list(states.values())
    counts = {state: all_states.count(state) for state in dict.fromkeys(all_states)}
    summary = ", ".join(f"{n} {state}" for state, n in counts.items())
    yield f"{len(records)} stages, {len(states)} inputs" + (f": {summary}" if summary else "")


def _state(product: Path, name: str, expected: str) -> str:
    """Return text on the state of an input: missing, changed or unchanged.

    The path of the input is relative to a folder above the product, or to the current folder.
    """
    from hklflow import stage

    folders = [*product.absolute().parents, Path.cwd()]
    files = dict.fromkeys(folder / name for folder in folders if (folder / name).is_file())
    if not files:
        return "missing"
    same = any(stage.fingerprint(file) == expected for file in files)
    return "unchanged" if same else "CHANGED"
