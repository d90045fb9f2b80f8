"""Answers to the browser about volumes: numbers of the Python interface, exactly."""

from collections.abc import Callable
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.results import Volume, open_product
from hklflow.view.catalogue import Catalogue
from hklflow.view.wire import Query, arrays, json, number, numbers, one_state, text
from hklflow.volumes import planes

_LETTERS = "hklxyz"


def content(catalogue: Catalogue, query: Query) -> bytes:
    """Return the lists of volumes and rotations."""
    del query
    return json(
        {
            "experiment": catalogue.folder.resolve().name,
            "volumes": [item.about for item in catalogue.items()],
            "rotations": [item.about for item in catalogue.rotations()],
        }
    )


def facts(catalogue: Catalogue, query: Query) -> bytes:
    """Return kind, axes and cell of a volume."""

    def of(volume: Volume) -> bytes:
        grid = volume.grid
        names = volume.axes
        ends = [grid.axis(i)[[0, -1]].tolist() for i in range(3)]
        return json(
            {
                "kind": volume.kind,
                "text": repr(volume),
                "names": list(names),
                "ends": dict(zip(names, ends, strict=True)),
                "step": dict(zip(names, grid.step.tolist(), strict=True)),
                "metric": volume.metric.tolist(),
                "edge": volume.edge,
                "unit": "Å" if names == "xyz" else "1/Å",
            }
        )

    return _of_volume(catalogue, query, of)


def plane(catalogue: Catalogue, query: Query) -> bytes:
    """Return S and σ of a plane, see `Volume.plane`."""
    wanted, width = text(query, "plane"), number(query, "width", 0.0)

    def of(volume: Volume) -> bytes:
        cut = volume.plane(wanted, width)
        second, first = cut["S"].dims
        axes = {str(name): cut[name].values for name in (first, second)}
        others = {
            str(name): values.values for name, values in cut.coords.items() if name not in axes
        }
        about = {"first": first, "second": second, "vectors": _vectors(wanted, volume)}
        return arrays(cut.attrs, about, {**axes, **others, **_values(cut)})

    return _of_volume(catalogue, query, of)


def line(catalogue: Catalogue, query: Query) -> bytes:
    """Return the bins of a line, see `Volume.line`."""
    start, end = (numbers(query, name, 3) for name in ("start", "end"))
    width = number(query, "width")

    def of(volume: Volume) -> bytes:
        cut = volume.line(start, end, width)
        places = {str(name): values.values for name, values in cut.coords.items()}
        return arrays(cut.attrs, {}, {**places, **_values(cut)})

    return _of_volume(catalogue, query, of)


def box(catalogue: Catalogue, query: Query) -> bytes:
    """Return S of a box, see `Volume.box`."""
    ranges: dict[str, Any] = {
        name: tuple(numbers(query, name, 2)) for name in _LETTERS if query.get(name)
    }

    def of(volume: Volume) -> bytes:
        cut = volume.box(**ranges)
        return arrays(cut.attrs, {}, _values(cut))

    return _of_volume(catalogue, query, of)


ANSWERS: dict[str, Callable[[Catalogue, Query], bytes]] = {
    "list": content,
    "volume": facts,
    "plane": plane,
    "line": line,
    "box": box,
}


def _of_volume(catalogue: Catalogue, query: Query, answer: Callable[[Volume], bytes]) -> bytes:
    """Return an answer from one state of a file."""
    item = catalogue.find(text(query, "id"))

    def read() -> bytes:
        volume = open_product(item.path)
        if not isinstance(volume, Volume):
            raise HklflowError(f"{item.title} is no volume; run `snakemake` again")
        return answer(volume)

    return one_state([item.path], item.title, read)


def _vectors(wanted: str, volume: Volume) -> dict[str, Any]:
    """Return origin and both vectors of a plane on the axes of its volume."""
    parsed = planes.parse(wanted, volume.axes)
    return {"origin": parsed.origin, "first": parsed.first, "second": parsed.second}


def _values(cut: Any) -> dict[str, Any]:
    return {str(name): values.values for name, values in cut.data_vars.items()}
