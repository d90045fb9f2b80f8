"""Tables of the page of a sample: its scans, the gates, and the numbers of all steps."""

import math
from collections.abc import Mapping
from typing import Any

from hklflow.page import gates
from hklflow.page.content import Page
from hklflow.page.markup import Html, badge, join, table, tag
from hklflow.page.numbers import formatted, placed, with_error
from hklflow.page.steps import STEPS, Figure

_AXES = ("a", "b", "c", "α", "β", "γ")


def overview(page: Page) -> list[Html]:
    """Return the table of scans, the gates of the orientation, and the quality of each step."""
    accepted = {scan: page.one(scan, "accepted") for scan in page.scans}
    accepted = {scan: data for scan, data in accepted.items() if data}
    parts = [_lattices(page)]
    if accepted:
        parts.append(tag("h3", "Gates of the orientation"))
        parts.append(_gates(page, accepted))
        note = "The limit is in brackets. A gate compares a scan with its parent."
        parts.append(tag("p", note, class_="note"))
    if quality := _quality(page):
        note = (
            "Green: as expected of good data (the values in brackets). Yellow: look at the"
            " pictures of the step. Black: no value is expected; without the 3-D mask, χ² is above"
            " 1 at the edges of sharp reflections."
        )
        parts += [tag("h3", "Quality of each step"), quality, tag("p", note, class_="note")]
    return parts


def _badge(page: Page, scan: str) -> Html:
    judged = page.judged(scan)
    return badge(None if judged is None else judged.verdict)


def _lattices(page: Page) -> Html:
    """Make the table of scans; angles that symmetry fixes in all scans are below it, once."""
    known = list(page.orientations.values())
    fixed = {
        i: known[0].cell[i]
        for i in range(3, 6)
        if len({round(one.cell[i], 9) for one in known}) == 1
        and not any(one.cell_sigma[i] for one in known)
    }
    shown = [i for i in range(6) if i not in fixed]
    # A space group common to all scans is in the first line of the page.
    groups = len({one.space_group for one in known}) > 1
    head = ["Scan", "Verdict", page.axis.symbol, "Parent", *(["Space group"] if groups else [])]
    head += [f"{_AXES[i]} ({'Å' if i < 3 else '°'})" for i in shown]
    head += ["V (Å³)", "Peaks", "Indexed", "rmsd (pixel, frame)", "Coverage"]
    rows = []
    for i, (scan, temperature) in enumerate(page.scans.items()):
        own = page.orientations.get(scan)
        metrics = own.metrics if own else {}
        row: list[str] = [tag("a", scan, href=f"#scan-{i}"), _badge(page, scan)]
        row += [placed(temperature, page.axis), own.parent if own else "–"]
        row += [own.space_group if own else "–"] if groups else []
        row += [with_error(own.cell[i], own.cell_sigma[i]) if own else "–" for i in shown]
        row.append(with_error(own.volume, own.figures.get("volume_sigma")) if own else "–")
        row.append(formatted(metrics.get("peaks"), "{:,}"))
        row.append(formatted(own.fraction_indexed if own else None, "{:.1%}"))
        rmsd = [
            formatted(metrics.get(f"rmsd in {unit}"), "{:.3f}") for unit in ("pixels", "frames")
        ]
        row.append(", ".join(rmsd))
        row.append(formatted(page.one(scan, "transform").get("coverage"), "{:.1%}"))
        rows.append(row)
    parts = [table(head, rows)]
    if fixed:
        words = ", ".join(f"{_AXES[i]} = {value:g}°" for i, value in fixed.items())
        parts.append(tag("p", f"Fixed by symmetry: {words}.", class_="note"))
    return join(parts)


def _gates(page: Page, judged: Mapping[str, Mapping[str, Any]]) -> Html:
    """Make the table of the gates; a limit that all scans share is in the head."""
    found = {scan: gates.table(accepted) for scan, accepted in judged.items()}
    names = max(found.values(), key=len)  # a scan with too few peaks has one cell, which says so
    columns = zip(*(row for row in found.values() if len(row) == len(names)), strict=True)
    shared = [len({gate.limit for gate in column}) == 1 for column in columns]
    head = [join([x.name, _limit(x) if one else ""]) for x, one in zip(names, shared, strict=True)]
    rows = []
    for scan, row in found.items():
        known = shared if len(row) == len(names) else [False]
        cells = [_gate(gate, one) for gate, one in zip(row, known, strict=True)]
        rows.append([scan, _badge(page, scan), *cells])
    return table(["Scan", "Verdict", *head], rows)


def _limit(gate: gates.Gate) -> Html:
    return tag("span", f" ({gate.limit})", class_="note")


def _gate(gate: gates.Gate, shared: bool) -> Html:
    figure = gate.figure
    if not gate.passed:
        figure = tag("span", f"✗ failed: {figure}", class_="badge bad")
    return join([figure, "" if shared else _limit(gate)])


def _quality(page: Page) -> Html | None:
    """Make a table with one row for each number of a step, and one column for each scan."""
    rows = []
    for i, step in enumerate(STEPS[:-1]):
        first = True
        for figure in step.figures or _first_figures(page, i):
            cells = [_values(page, scan, figure) for scan in page.scans]
            if any(cells):
                name = step.title if first else ""
                rows.append([name, _name(figure), *(cell or "–" for cell in cells)])
                first = False
    if not rows:
        return None
    return table(["Step", "", *page.scans], rows, names=2, class_="quality")


def _name(figure: Figure) -> Html:
    low, high = figure.expected
    words = [formatted(x, figure.form) for x in (low, high) if x is not None]
    if not words:
        return join([figure.name])
    if len(words) == 2:
        limit = " to ".join(words)
    else:
        limit = f"{'at least' if high is None else 'at most'} {words[0]}"
    return join([figure.name, tag("span", f" ({limit})", class_="note")])


def _values(page: Page, scan: str, figure: Figure) -> Html:
    """Return the values of the rotations of a scan; empty if there is none."""
    cells = []
    for _, data in page.found(scan, figure.product):
        value: Any = data
        for key in figure.keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        cells.append(_light(formatted(value, figure.form), figure.as_expected(value)))
    known = any(cell != "–" for cell in cells)
    return join([part for cell in cells for part in (cell, " · ")][:-1]) if known else Html("")


def _light(words: str, good: bool | None) -> Html:
    if good is None:
        return join([words])
    # The sign is for readers who cannot distinguish colours.
    return tag("span", words if good else f"? {words}", class_="good" if good else "badge warn")


def _first_figures(page: Page, step: int, most: int = 3) -> list[Figure]:
    """Return the first numbers of the products of a step, if `STEPS` names none."""
    found: dict[tuple[str, str], Figure] = {}
    for at, data in page.figures:
        if at.part == "scan" and at.step == step:
            numbers = [key for key, x in data.items() if isinstance(x, float) and math.isfinite(x)]
            for key in numbers[:most]:
                words = (key, at.product.title if at.rotation == "" else "", _masked(at.kind))
                name = ", ".join(word for word in words if word)
                found.setdefault((at.path.stem, key), Figure(name, at.path.stem, (key,)))
    return list(found.values())


def _masked(kind: str) -> str:
    return "3-D masked" if kind == "masked_transform" else ""
