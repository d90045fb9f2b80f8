"""`hklflow lattice suggest`: lattices, Laue groups and space groups that the data agree with."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from hklflow.base.errors import printable
from hklflow.cli.options import AsJson, Directory

if TYPE_CHECKING:
    from hklflow.bragg.laue_groups import Laue
    from hklflow.bragg.laue_likelihood import Agreement
    from hklflow.bragg.suggest import Suggestion

app = App(name="lattice", help="Cell, centring and space group.")

_ROWS = 8  # Laue groups and extinctions in the tables
_SYMBOLS = 8  # space groups in a row

Cell = tuple[float, float, float, float, float, float]
Centring = Literal["P", "A", "B", "C", "I", "F", "R"]


@app.command
def suggest(
    data: tuple[str, ...] = (),
    /,
    *,
    cell: Cell | None = None,
    sigma: Cell | None = None,
    centring: Centring | None = None,
    json: Annotated[AsJson, Parameter(name="--json")] = False,
    directory: Directory = Path(),
) -> None:
    """Rank Bravais lattices, Laue groups and space groups by the cell and by intensities.

    The best data are scaled reflections, integrated in `P 1` or in a space group without absences
    that are in doubt; the peaks of the search are enough for a first answer, and a cell for the
    list of Bravais lattices. Nothing is written: the command prints the line for the configuration.

    Example: `hklflow lattice suggest quartz/300K`; `hklflow lattice suggest orientation.json
    scaled.nxs`; `hklflow lattice suggest --cell 5.43 5.43 7.68 90 90 90.02`

    Parameters
    ----------
    data
        A scan as `sample/scan`, or files: orientation.json, and scaled.nxs, reflections.nxs of each
        rotation, structure_factors.nxs, or peaks.nxs of each rotation.
    cell
        a, b, c in Å and alpha, beta, gamma in degrees, instead of the cell in the files.
    sigma
        Standard deviations of `--cell`.
    centring
        Centring of the cell; R is hexagonal axes, obverse. Default: the one in the files, or P.
    """
    from hklflow.bragg.suggest import suggest as search
    from hklflow.cli.lattice_input import files_of_scan, source

    paths = [Path(item) for item in data]
    if len(data) == 1 and not paths[0].exists() and not paths[0].suffix:
        paths = files_of_scan(data[0], directory)
    read = source(paths, cell, sigma, centring)
    found = search(read.measured)
    notes = [*read.notes, *found.notes, *_limits(found)]
    if json:
        import json as library

        print(library.dumps(_plain(to_dict(found, notes, read.sample)), indent=2))
        return
    print(read.text)
    for line in (*_lattices(found), *_laue(found), *_absences(found)):
        print(line)
    print()
    for note in notes:
        print(f"note: {printable(note)}")
    for line in _recommendation(found, read.sample):
        print(line)


def _lattices(found: "Suggestion") -> Iterator[str]:
    yield "\nBravais lattices: largest deviation from the conventional cell, Le Page angle"
    yield f"{'type':5s}{'%, °':>8s}{'σ':>8s}{'Le Page':>9s}  {'verdict':11s}cell; h' = M h"
    for fit in reversed(found.lattices):
        if fit.setting is None or fit.matrix is None:
            yield f"{fit.bravais:5s}{'':25s}  {'excluded':11s}not within 3°"
            continue
        numbers = f"{fit.percent:8.3f}{_number(fit.sigmas, '8.1f')}{fit.setting.delta:8.3f}°"
        text = f"{_cell(fit.setting.cell)}; {_matrix(fit.matrix)}"
        yield f"{fit.bravais:5s}{numbers}  {fit.verdict:11s}{text}"


def _laue(found: "Suggestion") -> Iterator[str]:
    if not found.rotations and not found.reflections:
        yield "\nLaue groups: no intensities; those of the compatible lattices and their subgroups"
        return
    yield (
        f"\nRotations of the lattice: pairs of {found.reflections} reflections; R of unrelated "
        "pairs; clear pairs that differ by more than 4σ"
    )
    head = f"{'rotation':22s}{'pairs':>7s}{'R':>7s}{'chance':>8s}{'CC':>7s}{'differ':>12s}"
    yield f"{head}  probability"
    for a in found.rotations:
        name = f"{a.order} along [{' '.join(map(str, a.axis))}]"
        yield (
            f"{name:22s}{a.pairs:7d}{_number(a.r, '7.3f')}{_number(a.r_chance, '8.2f')}"
            f"{_number(a.correlation, '7.3f')}{f'{a.different} of {a.clear}':>12s}"
            f"  {_answer(a)}"
        )
    yield "\nLaue groups (the axes of a setting by its symbol)"
    yield f"{'group':8s}{'setting':15s}{'R':>7s}{'pairs':>8s}{'%, °':>8s}{'σ':>8s}  probability"
    for item in found.laue[:_ROWS]:
        yield (
            f"{item.laue:8s}{item.group.symbol:15s}{_number(item.r, '7.3f')}{item.pairs:8d}"
            f"{item.percent:8.3f}{_number(item.sigmas, '8.1f')}  {_number(item.probability, '.3f')}"
        )


def _answer(a: "Agreement") -> str:
    if a.assumed:
        return "merged"
    return f"{a.probability:.3f}{'' if a.decided else '  undecided'}"


def _absences(found: "Suggestion") -> Iterator[str]:
    if not found.extinctions:
        return
    yield f"\nReflections that a symmetry element forbids, in {found.laue[0].group.symbol}"
    yield f"{'n':>5s}{'I/σ':>8s}{'rest n':>8s}{'I/σ':>8s}{'level':>8s}  {'P(absent)':14s}element"
    for c in (*found.sublattices, *found.classes):
        figures = f"{c.number:5d}{_number(c.ratio_sigma, '8.1f')}{c.rest:8d}"
        figures += f"{_number(c.rest_ratio_sigma, '8.1f')}{_number(c.level, '8.3f')}"
        probability = f"{c.probability:.3f}" if c.number else "not measured"
        yield f"{figures}  {probability:14s}{c.name}"
    yield "\nSpace groups with the same absences"
    for item in found.extinctions[:_ROWS]:
        if item.probability >= 1e-3 or item is found.extinctions[0]:
            yield f"{item.probability:.3f}  {_symbols(item.groups)}"


def _limits(found: "Suggestion") -> Iterator[str]:
    """Say what the data cannot tell."""
    best = found.laue[0]
    if not found.reflections:
        yield (
            "without intensities, the highest symmetry that the cell allows is listed; the true "
            "one may be lower: reduce in it or in P 1, and run this again with the reflections"
        )
    if len(found.possible) > 1:
        others = ", ".join(f"{x.laue} ({x.group.symbol})" for x in found.possible[1:])
        yield (
            f"the Laue group is not determined: {best.laue} ({best.group.symbol}) has the "
            f"probability {best.probability:.2f}; also possible: {others}"
        )
    if best.untested:
        yield (
            f"{best.untested} of {best.order // 2 - 1} rotations of {best.laue} have no clear "
            "answer on their own: related reflections are too few, or their errors too large"
        )
    if found.metric_doubt:
        yield (
            f"the intensities have the symmetry {best.laue}, but the cell deviates from it by "
            f"{best.percent:.3f} (%, degrees), {best.sigmas:.1f} σ: check the geometry; the "
            "crystal may be pseudo-symmetric or twinned"
        )
    if not found.extinctions:
        return
    unmeasured = [c.name for c in found.classes if not c.number]
    if unmeasured:
        yield f"no reflection was measured that would test: {'; '.join(unmeasured)}"
    if len(found.undecided) > 1:
        yield (
            "absences do not decide between "
            + " / ".join(_symbols(item.groups) for item in found.undecided[:_ROWS])
            + ": fewer absences are suggested than may be true"
        )
    yield (
        "space groups in one row, a centre of inversion among them, and the two hands of a screw "
        "axis have the same absences; hklflow needs only one of them"
    )
    yield from _twin(found)


def _twin(found: "Suggestion") -> Iterator[str]:
    laws = found.twins
    if not laws:
        return
    below = ", ".join(dict.fromkeys(laws))
    text = f"a perfect twin of a crystal with {below} has these intensities too: "
    if found.moment != found.moment:
        yield text + "too few strong reflections for <I²>/<I>²"
        return
    yield (
        f"{text}<I²>/<I>² is {found.moment:.2f}; expected are 3 (centrosymmetric) or 2, of a "
        f"perfect twin 2 or 1.5, and less with few atoms in the cell: {found.twin_verdict}"
    )


def _recommendation(found: "Suggestion", sample: str | None) -> Iterator[str]:
    best, group = found.laue[0], found.space_group
    certain = "" if found.determined else " (not determined: see the notes)"
    yield f"recommended: space group {group.symbol}, Laue group {group.laue}{certain}"
    yield f"cell {_cell(best.cell)}"
    if not found.keeps_axes:
        yield f"the axes change: h' = M h with M = {_matrix(best.matrix)}"
    yield f"config.yaml: `{config_line(found, sample)}`, then reduce the parent again"


def config_line(found: "Suggestion", sample: str | None) -> str:
    """Return the line of YAML that sets space group and cell."""
    numbers = ", ".join(f"{x:.5g}" for x in found.laue[0].cell)
    inner = f'refine_parent: {{space_group: "{found.space_group.symbol}", cell: [{numbers}]}}'
    return inner if sample is None else f"per_sample: {{{sample}: {{{inner}}}}}"


def to_dict(found: "Suggestion", notes: list[str], sample: str | None) -> dict[str, Any]:
    """Return the suggestion for JSON."""
    best = found.laue[0]
    return {
        "space group": found.space_group.symbol,
        "laue group": best.laue,
        "determined": found.determined,
        "cell": best.cell,
        "matrix": best.matrix,
        "config": config_line(found, sample),
        "lattices": [
            {
                "bravais": fit.bravais,
                "verdict": fit.verdict,
                "percent": fit.percent,
                "sigmas": fit.sigmas,
                "le page": None if fit.setting is None else fit.setting.delta,
                "cell": None if fit.setting is None else fit.setting.cell,
                "matrix": fit.matrix,
            }
            for fit in found.lattices
        ],
        "rotations": [vars(a) | {"probability": a.probability} for a in found.rotations],
        "laue groups": [_laue_dict(item) for item in found.laue],
        "sublattices": [vars(c) for c in found.sublattices],
        "classes": [vars(c) for c in found.classes],
        "extinctions": [
            {
                "space groups": [g.symbol for g in item.groups],
                "probability": item.probability,
                "unmeasured": item.unmeasured,
            }
            for item in found.extinctions
        ],
        "undecided": [[g.symbol for g in item.groups] for item in found.undecided],
        "moment": found.moment,
        "reflections": found.reflections,
        "repeated": found.repeated,
        "relative error": found.relative,
        "notes": notes,
    }


def _laue_dict(item: "Laue") -> dict[str, Any]:
    return vars(item) | {"group": item.group.symbol}


def _plain(value: Any) -> Any:
    """Return arrays as lists and NaN as None: standard JSON has no NaN."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def _number(value: float, form: str) -> str:
    width = int(form.partition(".")[0] or 0)
    return f"{'-':>{width}s}" if value != value else f"{value:{form}}"


def _cell(cell: Any) -> str:
    return " ".join(f"{x:.4f}" for x in cell[:3]) + " " + " ".join(f"{x:.3f}" for x in cell[3:])


def _matrix(matrix: Any) -> str:
    from fractions import Fraction

    rows = [" ".join(str(Fraction(float(x)).limit_denominator(12)) for x in row) for row in matrix]
    return f"[{'; '.join(rows)}]"


def _symbols(groups: Any) -> str:
    names = list(dict.fromkeys(g.symbol.split(" :")[0] for g in groups))
    more = "" if len(names) <= _SYMBOLS else f" and {len(names) - _SYMBOLS} more"
    return ", ".join(names[:_SYMBOLS]) + more
