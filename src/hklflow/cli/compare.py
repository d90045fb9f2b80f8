"""`hklflow compare`: analyses of a scan, or any scans of one sample, side by side."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from hklflow.base.errors import HklflowError, printable
from hklflow.base.names import ANALYSIS, measured
from hklflow.base.values import CELL_NAMES
from hklflow.cli.options import Directory
from hklflow.page.numbers import with_error

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.experiment.config import Experiment
    from hklflow.nexus import OpenVolume
    from hklflow.orientation.product import Orientation
    from hklflow.orientation.relation import Relation

_SHELLS = 12
_SLAB = 16  # planes of a volume that are in memory at a time
_NONE = "-"

# Figures of the products: label, product, keys, format.
_FIGURES: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("verdict of the refinement", "accepted.json", ("verdict",), ""),
    ("peaks found", "orientation.json", ("metrics", "peaks found"), "d"),
    ("peaks chosen for the fit", "orientation.json", ("metrics", "peaks"), "d"),
    ("fraction indexed", "orientation.json", ("metrics", "fraction indexed"), ".4f"),
    ("peaks used in the refinement", "orientation.json", ("metrics", "used in refinement"), "d"),
    ("rmsd in pixels", "orientation.json", ("metrics", "rmsd in pixels"), ".4f"),
    ("rmsd in frames", "orientation.json", ("metrics", "rmsd in frames"), ".4f"),
    ("reduced chi2 of the peaks", "orientation.json", ("metrics", "reduced chi2"), ".4f"),
    ("coverage of S", "transform.json", ("coverage",), ".4f"),
    ("counts per measured voxel", "transform.json", ("mean counts per measured voxel",), ".4g"),
    (
        "chi2 between rotations",
        "transform.json",
        ("rotations' reduced chi2 away from reflections",),
        ".4f",
    ),
    ("space group of the reflections", "structure_factors.json", ("space group",), ""),
    ("unique reflections", "structure_factors.json", ("unique",), "d"),
    ("R_merge", "structure_factors.json", ("overall", "R_merge"), ".4f"),
    ("R_meas", "structure_factors.json", ("overall", "R_meas"), ".4f"),
    ("R_pim", "structure_factors.json", ("overall", "R_pim"), ".4f"),
    ("CC1/2", "structure_factors.json", ("overall", "CC1/2"), ".4f"),
    ("completeness", "structure_factors.json", ("overall", "completeness"), ".4f"),
)


def compare(
    scan: str,
    /,
    *others: str,
    volume: str = "transform.nxs",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
    directory: Directory = Path(),
) -> None:
    """Compare analyses of a scan, or several scans of a sample: parameters, lattice, S(Q).

    The table has the parameters that differ; cell and orientation with standard uncertainties;
    figures of the refinement, of the merged volume and of the structure factors; and the
    correlation of S with that of the first scan in shells of |Q|, with and without the Bragg
    reflections. A product that is not made yet is shown as `-`.

    Example: `hklflow compare quartz/300K tight p1`, `hklflow compare quartz/300K quartz/100K`

    Parameters
    ----------
    scan
        `sample/scan`, or `sample/scan@analysis`.
    others
        Names of analyses of the scan, or further `sample/scan`. Default: all analyses of the scan.
    volume
        Product whose S is correlated, such as `masked_transform.nxs`.
    as_json
        Print JSON instead of a table.
    """
    from hklflow.cli.folder import experiment as folder_of
    from hklflow.experiment.config import load

    folder = folder_of(directory)
    experiment = load(folder.data(), folder.base)
    columns = [_Column(experiment, *key) for key in _scans(experiment, scan, others)]
    found = _compared(columns, volume)
    if as_json:
        print(json.dumps(found, allow_nan=False))
        return
    for line in _lines([column.name for column in columns], found):
        print(printable(line))


def _scans(experiment: "Experiment", scan: str, others: Sequence[str]) -> list[tuple[str, str]]:
    """Return sample and name of each scan; the first is the reference."""
    sample, _, name = scan.partition("/")
    keys = [(sample, name)]
    for other in others:
        # `tight` is an analysis of the first scan, `quartz/300K@tight` any scan.
        owner, slash, rest = other.partition("/")
        keys.append((owner, rest) if slash else (sample, f"{measured(name)}{ANALYSIS}{other}"))
    known = ", ".join("/".join(key) for key in experiment.scans) or "none"
    for key in keys:
        if key not in experiment.scans:
            raise HklflowError(f"there is no scan {'/'.join(key)}; the scans are {known}")
    if not others:
        keys += [(sample, one) for one in experiment.analyses_of(sample, name) if one != name]
    if len(keys) < 2:
        raise HklflowError(
            f"{scan} has no analyses; define one in the configuration as `per_scan: "
            f"{{{scan}{ANALYSIS}NAME: {{...}}}}`, or name another scan to compare with"
        )
    if len(set(keys)) < len(keys):
        raise HklflowError(f"{', '.join('/'.join(key) for key in keys)}: a scan occurs twice")
    return keys


@dataclass(frozen=True)
class _Column:
    """One scan of the comparison, and its products."""

    experiment: "Experiment"
    sample: str
    scan: str

    @property
    def name(self) -> str:
        return f"{self.sample}/{self.scan}"

    def path(self, product: str) -> Path:
        pattern = self.experiment.paths.scan(product)
        return self.experiment.base / pattern.format(sample=self.sample, scan=self.scan)

    def figures(self, product: str) -> Mapping[str, Any] | None:
        """Return the content of a JSON product; None if it is not made yet."""
        from hklflow import stage

        path = self.path(product)
        return stage.read_json(path) if path.exists() else None

    def orientation(self) -> "Orientation | None":
        from hklflow import stage

        path = self.path("orientation.json")
        return stage.read_orientation(path) if path.exists() else None

    def parameters(self) -> dict[str, Any]:
        """Return the value of each parameter, by its keys joined with points."""
        from hklflow.experiment.resolve import PER_SCAN

        settings = self.experiment.settings(self.sample, self.scan)
        return dict(_flat(settings.model_dump(mode="json", include=set(PER_SCAN))))


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _compared(columns: Sequence[_Column], volume: str) -> dict[str, Any]:
    parameters = [column.parameters() for column in columns]
    names = dict.fromkeys(name for own in parameters for name in own)
    differing = {
        name: [own.get(name) for own in parameters]
        for name in names
        if any(own.get(name) != parameters[0].get(name) for own in parameters)
    }
    orientations = [column.orientation() for column in columns]
    products = {name: [c.figures(name) for c in columns] for _, name, _, _ in _FIGURES}
    relations = [_relation(orientations[0], other) for other in orientations[1:]]
    return {
        "scans": [column.name for column in columns],
        "parameters": differing,
        "lattice": [None if one is None else _lattice(one) for one in orientations],
        "to the first": [None if one is None else _related(one) for one in relations],
        "figures": {
            label: [_value(found, keys) for found in products[product]]
            for label, product, keys, _ in _FIGURES
        },
        "volume": volume,
        "correlation": [
            _correlation(columns[0], other, relation, volume)
            for other, relation in zip(columns[1:], relations, strict=True)
        ],
    }


def _value(found: Mapping[str, Any] | None, keys: Sequence[str]) -> Any:
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _lattice(orientation: "Orientation") -> dict[str, Any]:
    return {
        "space group": orientation.space_group,
        "parent": orientation.parent,
        "cell": orientation.cell.tolist(),
        "cell_sigma": orientation.cell_sigma.tolist(),
        "orientation_sigma_deg": orientation.orientation_sigma.tolist(),
    }


def _relation(a: "Orientation | None", b: "Orientation | None") -> "Relation | None":
    from hklflow.orientation.relation import relation

    return None if a is None or b is None else relation(a.ub, b.ub)


def _related(relation: "Relation") -> dict[str, Any]:
    return {"matrix": relation.matrix.tolist(), "angle_deg": relation.angle}


def _correlation(
    first: _Column, other: _Column, relation: "Relation | None", volume: str
) -> dict[str, Any]:
    """Return the shells with and without Bragg reflections, or the reason why there are none."""
    from hklflow import nexus

    paths = [first.path(volume), other.path(volume)]
    if missing := [path for path in paths if not path.exists()]:
        return {"reason": f"{missing[0].relative_to(first.experiment.base)} is not made yet"}
    if relation is None:
        return {"reason": "the lattices are not those of one crystal"}
    radius = first.experiment.settings(first.sample, first.scan).merge.bragg_radius
    with nexus.open_volume(paths[0]) as a, nexus.open_volume(paths[1]) as b:
        return _shells(a, b, relation, radius)


def _shells(
    a: "OpenVolume", b: "OpenVolume", relation: "Relation", radius: float
) -> dict[str, Any]:
    import numpy as np

    from hklflow.volumes import correlation, pairs

    planes = a.grid.array_shape[0]
    reach = correlation.reach(a.grid, a.cell)
    every, diffuse = (correlation.Correlation(reach, _SHELLS) for _ in range(2))
    others = _Planes(b)
    for begin in range(0, planes, _SLAB):
        end = min(begin + _SLAB, planes)
        place = correlation.places(a.grid, b.grid, relation.matrix, begin, end)
        if not place.inside.any():
            continue
        own = _ratio(*a.slab(begin, end))[place.inside]
        theirs = others.at(place.at)
        q = correlation.lengths(a.grid, a.cell, begin, end)[place.inside]
        region = (slice(begin, end), slice(None), slice(None))
        away = pairs.away_from_bragg(a.grid, a.cell, radius, region)[place.inside]
        measured = np.isfinite(own) & np.isfinite(theirs)
        for target, use in ((every, measured), (diffuse, measured & away)):
            target.add(q[use], own[use], theirs[use])
    rows = [every.figures(), diffuse.figures()]
    if not any(row["voxels"] for row in rows[0]):
        return {"reason": "no voxels of the two grids are at the same places"}
    return {"all": rows[0], "without Bragg": rows[1]}


def _ratio(counts: "NDArray[np.float64]", norm: "NDArray[np.float64]") -> "NDArray[np.float32]":
    """Return S; NaN where it is not measured."""
    import numpy as np

    nothing = np.full(counts.shape, np.nan, np.float32)
    return np.divide(counts, norm, out=nothing, where=norm > 0, casting="same_kind")


class _Planes:
    """Values of S of a volume at given voxels; the planes that were read last are kept."""

    def __init__(self, volume: "OpenVolume") -> None:
        self._volume = volume
        self._first, self._kept = 0, _ratio(*volume.slab(0, 0))

    def at(self, index: "NDArray[np.int64]") -> "NDArray[np.float32]":
        """Return S at the voxels (3, n), by l, k and h."""
        first, last = int(index[0].min()), int(index[0].max()) + 1
        if first < self._first or last > self._first + len(self._kept):
            # Axes that are exchanged need all planes for each slab: read them once.
            planes = len(self._volume.group["counts"])
            whole = last - first > 2 * _SLAB
            self._first, last = (0, planes) if whole else (first, last)
            slabs = range(self._first, last, _SLAB)
            self._kept = _joined([self._volume.slab(i, min(i + _SLAB, last)) for i in slabs])
        found: NDArray[np.float32] = self._kept[index[0] - self._first, index[1], index[2]]
        return found


def _joined(
    slabs: "Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]",
) -> "NDArray[np.float32]":
    import numpy as np

    return np.concatenate([_ratio(*slab) for slab in slabs])


# ------------------------------------------------------------------------------- text


def _lines(names: Sequence[str], found: Mapping[str, Any]) -> Iterator[str]:
    rows = [("", *names)]
    rows += [(key, *map(_written, values)) for key, values in found["parameters"].items()]
    if not found["parameters"]:
        rows.append(("parameters", *["the same"] * len(names)))
    rows += [("", *[""] * len(names)), *_lattice_rows(found)]
    rows.append(("", *[""] * len(names)))
    for label, _, _, form in _FIGURES:
        values = found["figures"][label]
        if any(value is not None for value in values):
            rows.append((label, *(_NONE if x is None else format(x, form) for x in values)))
    yield from _aligned(rows)
    for name, one in zip(names[1:], found["correlation"], strict=True):
        yield ""
        yield from _shell_lines(f"S of {name} and {names[0]} ({found['volume']})", one)


def _lattice_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    lattices, relations = found["lattice"], [None, *found["to the first"]]
    yield "space group", *(_NONE if one is None else one["space group"] for one in lattices)
    for i, name in enumerate(CELL_NAMES):
        cells = (
            _NONE if x is None else with_error(x["cell"][i], x["cell_sigma"][i]) for x in lattices
        )
        yield f"{name} ({'Å' if i < 3 else '°'})", *cells
    sigma = (x and f"{max(x['orientation_sigma_deg']):.2g}" for x in lattices)
    yield "largest s.u. of the orientation (°)", *(text or _NONE for text in sigma)
    angles = [_NONE if x is None else f"{x['angle_deg']:.2g}" for x in relations]
    yield "rotated against the first (°)", *angles
    indices = (_NONE if x is None else _indices(x["matrix"]) for x in relations)
    yield "hkl of the first become", *indices


def _indices(matrix: Sequence[Sequence[float]]) -> str:
    """Return a matrix as indices, such as ``h,k,l`` or ``-k,h+k,l``."""
    from fractions import Fraction

    words = []
    for row in matrix:
        word = ""
        for number, name in zip(row, "hkl", strict=True):
            if number:
                size = Fraction(abs(number)).limit_denominator(12)
                word += ("-" if number < 0 else "+") + ("" if size == 1 else f"{size}") + name
        words.append(word.removeprefix("+") or "0")
    return ",".join(words)


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shell_lines(title: str, found: Mapping[str, Any]) -> Iterator[str]:
    if "reason" in found:
        yield f"{title}: not compared, {found['reason']}"
        return
    yield f"{title}: correlation in shells of |Q|"
    rows: list[Sequence[str]] = [
        ("|Q| (1/Å)", "voxels", "CC", "ratio", "voxels without Bragg", "CC", "ratio")
    ]
    for every, diffuse in zip(found["all"], found["without Bragg"], strict=True):
        if every["voxels"]:
            cells = (
                x for row in (every, diffuse) for x in (row["voxels"], row["cc"], row["ratio"])
            )
            shell = f"{every['q from']:.2f}-{every['q to']:.2f}"
            rows.append((shell, *map(_number, cells)))
    yield from _aligned(rows)


def _number(value: float | int | None) -> str:
    if value is None:
        return _NONE
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip()
