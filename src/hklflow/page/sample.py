"""Page of a sample: overview, every step of every scan, plots against temperature."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import hklflow
from hklflow.orientation.product import Orientation
from hklflow.page import gates
from hklflow.page.markup import Html, document, gallery, join, table, tag
from hklflow.page.numbers import flat, with_error
from hklflow.page.pictures import Picture
from hklflow.page.steps import STEPS, Figure, Place
from hklflow.quality import verdict

_AXES = ("a", "b", "c", "α", "β", "γ")
_BADGES = {
    "passed": ("✓ passed", "good"),
    "doubtful": ("? doubtful", "warn"),
    "failed": ("✗ failed", "bad"),
}
_SAID = (
    "provenance",
    "diagnostic",
    "warnings",
    "notes",
    "failures",
    "sentences",
    "doubts",
)  # not shown as metrics, or shown elsewhere


@dataclass(frozen=True)
class Page:
    """Content of the page.

    Attributes
    ----------
    scans : mapping of str to float
        Temperature of each scan in K, NaN if not known; sorted from cold to warm.
    pictures : sequence of (Place, Picture)
        Pictures, in their order within a step.
    figures : sequence of (Place, mapping)
        Contents of the JSON files with metrics.
    remark : str
        Text below the title.
    """

    sample: str
    title: str
    scans: Mapping[str, float]
    pictures: Sequence[tuple[Place, Picture]]
    figures: Sequence[tuple[Place, Mapping[str, Any]]]
    remark: str = ""

    def found(self, scan: str, product: str) -> list[tuple[str, Mapping[str, Any]]]:
        """Return rotation and metrics of each product of a scan with a name (without suffix)."""
        return [
            (at.rotation, data)
            for at, data in self.figures
            if at.part == "scan" and at.owner == scan and at.path.stem == product
        ]

    @cached_property
    def orientations(self) -> dict[str, Orientation]:
        """Orientation of each scan that has one, in the order of the scans."""
        files = {
            at.owner: Orientation.from_dict(data, at.path)
            for at, data in self.figures
            if at.part == "scan" and at.path.stem == "orientation"
        }
        return {scan: files[scan] for scan in self.scans if scan in files}

    def one(self, scan: str, product: str) -> Mapping[str, Any]:
        """Return the metrics of a product of a scan; empty if there are none."""
        found = self.found(scan, product)
        return found[0][1] if found else {}

    def judged(self, scan: str) -> verdict.OfScan | None:
        """Return the verdict on a scan from all stages; None if its orientation was not judged."""
        accepted = self.one(scan, "accepted")
        if not accepted:
            return None
        return verdict.of_scan(accepted, self._named(scan))

    def notes(self, scan: str) -> list[str]:
        """Return messages of the stages of a scan that are not reasons of its verdict."""
        accepted = self.one(scan, "accepted")
        if accepted:
            return verdict.notes(accepted, self._named(scan))
        none: dict[str, Any] = {"sentences": [], "doubts": []}
        named = self._named(scan)
        return [*verdict.of_scan(none, named).reasons, *verdict.notes(none, named)]

    def _named(self, scan: str) -> list[tuple[str, Mapping[str, Any]]]:
        return [
            (verdict.product_name(at.path.stem, at.rotation), data)
            for at, data in self.figures
            if at.part == "scan" and at.owner == scan and at.path.stem != "accepted"
        ]

    def shown(self, part: str, owner: str | None = None) -> list[tuple[Place, Picture]]:
        """Return the pictures of one part."""
        return [x for x in self.pictures if x[0].part == part and owner in (None, x[0].owner)]


def render(page: Page) -> str:
    """Return the page as HTML."""
    closing = [*_temperatures(page), *_stacks(page), *_crystals(page), *_others(page)]
    links = [("overview", "Overview")]
    if page.shown("calibration"):
        links.append(("calibration", "Calibration"))
    links += [(f"scan-{i}", scan) for i, scan in enumerate(page.scans)]
    links += [(anchor, title) for anchor, title, _ in closing]
    return document(
        page.title or page.sample,
        tag("h1", page.title or page.sample),
        tag("p", _lead(page), class_="lead"),
        *([tag("p", page.remark, class_="note")] if page.remark else []),
        tag("nav", [tag("a", title, href=f"#{anchor}") for anchor, title in links]),
        _section("overview", "Overview", _overview(page)),
        _calibration(page),
        tag("h2", "Scans"),
        tag(
            "p",
            "Click on a picture to enlarge it; click again to shrink it.",
            class_="note",
        ),
        [_scan(page, i, scan) for i, scan in enumerate(page.scans)],
        [_section(anchor, title, content) for anchor, title, content in closing],
        tag(
            "footer",
            f"hklflow {hklflow.__version__}. Numbers in brackets are standard uncertainties of "
            "the last digits.",
            class_="note",
        ),
    )


def _section(anchor: str, title: str, content: str | Iterable[str]) -> Html:
    return tag("section", tag("h2", title), content, id=anchor)


def _kelvin(temperature: float) -> str:
    return f"{temperature:g} K" if math.isfinite(temperature) else "–"


def _lead(page: Page) -> str:
    known = [t for t in page.scans.values() if math.isfinite(t)]
    groups = dict.fromkeys(one.space_group for one in page.orientations.values())
    words = [f"{len(page.scans)} scan{'' if len(page.scans) == 1 else 's'}"]
    if known:
        low, high = min(known), max(known)
        words.append(_kelvin(low) if low == high else f"{low:g} to {high:g} K")
    words += groups
    return " · ".join(words)


# ------------------------------------------------------------------------------ overview


def _overview(page: Page) -> list[Html]:
    accepted = {scan: page.one(scan, "accepted") for scan in page.scans}
    accepted = {scan: data for scan, data in accepted.items() if data}
    parts = [_verdicts(page), _lattices(page), _warnings(page)]
    if accepted:
        parts.append(tag("h3", "Gates of the orientation"))
        parts.append(_gates(page, accepted))
        note = "The limit is in brackets. A gate compares a scan with its parent."
        parts.append(tag("p", note, class_="note"))
    if quality := _quality(page):
        parts += [tag("h3", "Quality of each step"), quality]
    return parts


def _badge(judged: verdict.OfScan | None) -> Html:
    if judged is None:
        return tag("span", "not judged", class_="note")
    # The sign is for readers who cannot distinguish colours.
    words, colour = _BADGES[judged.verdict]
    return tag("span", words, class_=f"badge {colour}")


def _verdicts(page: Page) -> Html:
    """Count the verdicts, and give the reasons of failed scans, then of doubtful scans."""
    found = {scan: page.judged(scan) for scan in page.scans}
    judged = {scan: one for scan, one in found.items() if one is not None}
    if not judged:
        return Html("")
    levels = [one.verdict for one in judged.values()]
    parts = [tag("p", f"Verdicts: {verdict.counted(levels)}.")]
    parts += [
        _reasons(scan, one)
        for level in ("failed", "doubtful")
        for scan, one in judged.items()
        if one.verdict == level
    ]
    return join(parts)


def _reasons(scan: str, judged: verdict.OfScan) -> Html:
    head = tag("p", tag("b", scan), " ", _badge(judged))
    sentences = [tag("p", sentence) for sentence in judged.reasons]
    return tag(
        "div", head, sentences, class_="alarm" if judged.verdict == "failed" else "alarm mild"
    )


def _warnings(page: Page) -> Html:
    """List the messages of the stages that are not reasons of a verdict."""
    parts = []
    for scan in page.scans:
        if notes := page.notes(scan):
            head = tag("p", tag("b", scan))
            parts.append(tag("div", head, [tag("p", x) for x in notes], class_="alarm plain"))
    return join([tag("h3", "Warnings of the steps"), parts]) if parts else Html("")


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
    head = ["Scan", "Verdict", "T", "Parent", *(["Space group"] if groups else [])]
    head += [f"{_AXES[i]} ({'Å' if i < 3 else '°'})" for i in shown]
    head += ["V (Å³)", "Peaks", "Indexed", "rmsd (pixel, frame)", "Coverage"]
    rows = []
    for i, (scan, temperature) in enumerate(page.scans.items()):
        own = page.orientations.get(scan)
        metrics = own.metrics if own else {}
        row: list[str] = [tag("a", scan, href=f"#scan-{i}"), _badge(page.judged(scan))]
        row += [_kelvin(temperature), own.parent if own else "–"]
        row += [own.space_group if own else "–"] if groups else []
        row += [with_error(own.cell[i], own.cell_sigma[i]) if own else "–" for i in shown]
        row.append(with_error(own.volume, own.figures.get("volume_sigma")) if own else "–")
        row.append(_format(metrics.get("peaks"), "{:,}"))
        row.append(_format(own.fraction_indexed if own else None, "{:.1%}"))
        rmsd = [_format(metrics.get(f"rmsd in {unit}"), "{:.3f}") for unit in ("pixels", "frames")]
        row.append(", ".join(rmsd))
        row.append(_format(page.one(scan, "transform").get("coverage"), "{:.1%}"))
        rows.append(row)
    parts = [table(head, rows)]
    if fixed:
        words = ", ".join(f"{_AXES[i]} = {value:g}°" for i, value in fixed.items())
        parts.append(tag("p", f"Fixed by symmetry: {words}.", class_="note"))
    return join(parts)


def _format(value: Any, form: str) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return form.format(value).replace(",", " ").replace("-", "−")


def _gates(page: Page, judged: Mapping[str, Mapping[str, Any]]) -> Html:
    rows = []
    head: list[str] = ["Scan", "Verdict"]
    for scan, accepted in judged.items():
        found = gates.table(accepted)
        head = ["Scan", "Verdict", *(gate.name for gate in found)]
        cells = [_gate(gate) for gate in found]
        rows.append([scan, _badge(page.judged(scan)), *cells])
    return table(head, rows)


def _gate(gate: gates.Gate) -> Html:
    limit = tag("span", f" ({gate.limit})", class_="note")
    if gate.passed:
        return join([gate.figure, limit])
    return join([tag("span", f"✗ failed: {gate.figure}", class_="badge bad"), limit])


def _quality(page: Page) -> Html | None:
    """Make a table with one row for each number of a step, and one column for each scan."""
    rows = []
    for i, step in enumerate(STEPS[:-1]):
        first = True
        for figure in step.figures or _first_figures(page, i):
            cells = [_values(page, scan, figure) for scan in page.scans]
            if any(cells):
                name = step.title if first else ""
                rows.append([name, figure.name, *(cell or "–" for cell in cells)])
                first = False
    if not rows:
        return None
    return table(["Step", "", *page.scans], rows, names=2, class_="quality")


def _values(page: Page, scan: str, figure: Figure) -> str:
    values = []
    for _, data in page.found(scan, figure.product):
        value: Any = data
        for key in figure.keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        values.append(_format(value, figure.form))
    return " · ".join(values) if any(value != "–" for value in values) else ""


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


# ------------------------------------------------------------------------------ the parts


def _pictures(shown: Sequence[tuple[Place, Picture]], name: str) -> Html:
    return gallery([(at.title, at.product.caption, picture) for at, picture in shown], name)


def _calibration(page: Page) -> Html:
    shown = page.shown("calibration")
    if not shown:
        return Html("")
    return _section("calibration", "Calibration", _pictures(shown, "calibration"))


def _scan(page: Page, number: int, scan: str) -> Html:
    judged = page.judged(scan)
    head = tag(
        "summary", f"{scan} ", _badge(judged), tag("span", _brief(page, scan), class_="note")
    )
    shown = page.shown("scan", scan)
    parts = [_reasons(scan, judged)] if judged is not None and judged.reasons else []
    for i, step in enumerate(STEPS):
        pictures = [x for x in shown if x[0].step == i]
        figures = [
            x for x in page.figures if x[0].part == "scan" and x[0].owner == scan and x[0].step == i
        ]
        if pictures or figures:
            parts.append(tag("h3", step.title))
        if pictures:
            parts.append(_pictures(pictures, f"s{number}-{i}"))
        if figures:
            parts.append(_figures(figures))
    # Open the first scan and scans with reasons of a verdict; open all scans if there are few.
    look = len(page.scans) <= 3 or number == 0 or (judged is not None and judged.reasons)
    return tag("details", head, parts, class_="scan", id=f"scan-{number}", open=bool(look))


def _brief(page: Page, scan: str) -> str:
    words = [_kelvin(page.scans[scan])]
    if own := page.orientations.get(scan):
        pairs = zip(own.cell, own.cell_sigma, strict=True)
        words += [own.space_group, " ".join(with_error(x, s) for x, s in pairs)]
    return " · ".join(words)


def _figures(found: Sequence[tuple[Place, Mapping[str, Any]]]) -> Html:
    """Make tables of all numbers of a step, which a click unfolds."""
    tables = []
    for at, data in found:
        title = ", ".join(word for word in (at.rotation, at.path.stem) if word)
        rows = [
            tag("tr", tag("th", name, scope="row"), tag("td", value))
            for name, value in flat({k: x for k, x in data.items() if k not in _SAID})
        ]
        tables.append(tag("table", tag("caption", title), tag("tbody", rows), class_="words"))
    return tag(
        "details", tag("summary", "All figures"), tag("div", tables, class_="columns"),
        class_="figures",
    )  # fmt: skip


def _temperatures(page: Page) -> list[tuple[str, str, Html]]:
    shown = page.shown("series")
    sentences = [x for at, data in page.figures if at.part == "series" for x in data["sentences"]]
    if not shown and not sentences:
        return []
    box = tag("div", [tag("p", x) for x in sentences], class_="alarm mild") if sentences else ""
    return [("series", "Cell against temperature", join([box, _pictures(shown, "series")]))]


def _stacks(page: Page) -> list[tuple[str, str, Html]]:
    shown = page.shown("stack")
    parents = dict.fromkeys(at.owner for at, _ in shown)
    parts = []
    for i, parent in enumerate(parents):
        pictures = [x for x in shown if x[0].owner == parent]
        parts += [tag("h3", f"Parent {parent}"), _pictures(pictures, f"stack-{i}")]
    return [("stacks", "Intensities against temperature", join(parts))] if parts else []


def _crystals(page: Page) -> list[tuple[str, str, Html]]:
    """Make a section on the scans that are merged to one set of structure factors."""
    shown = page.shown("crystals")
    parts: list[Html] = []
    for i, owner in enumerate(dict.fromkeys(at.owner for at, _ in shown)):
        figures = [x for x in page.figures if x[0].part == "crystals" and x[0].owner == owner]
        sentences = [text for _, data in figures for text in data["warnings"]]
        parts.append(tag("h3", owner))
        if sentences:
            parts.append(tag("div", [tag("p", x) for x in sentences], class_="alarm mild"))
        parts += [_scans_merged(data) for _, data in figures]
        parts.append(_pictures([x for x in shown if x[0].owner == owner], f"crystals-{i}"))
        parts.append(_figures(figures))
    return [("crystals", "Several scans merged", join(parts))] if parts else []


def _scans_merged(data: Mapping[str, Any]) -> Html:
    head = ["Scan", "", "Observations", "Indices", "ΔCC1/2", "σ", "Scale", "B (Å²)"]
    rows = [
        [
            row["scan"],
            "merged" if row["merged"] else "left out",
            _format(row["observations"], "{:,}"),
            row["indices"] or "–",
            _format(row["delta CC1/2"], "{:.4f}"),
            _format(row["significance"], "{:.1f}"),
            _format(row["scale"], "{:.4g}"),
            _format(row["B"], "{:.3f}"),
        ]
        for row in data["scans"]
    ]
    overall = data["overall"]
    words = ", ".join(
        f"{name} {_format(overall[name], form)}"
        for name, form in (
            ("completeness", "{:.1%}"),
            ("multiplicity", "{:.1f}"),
            ("R_meas", "{:.2%}"),
            ("R_pim", "{:.2%}"),
            ("CC1/2", "{:.4f}"),
        )
    )
    return join([table(head, rows), tag("p", f"All merged reflections: {words}.")])


def _others(page: Page) -> list[tuple[str, str, Html]]:
    shown = page.shown("other")
    found = [x for x in page.figures if x[0].part == "other"]
    parts = [_pictures(shown, "other")] if shown else []
    parts += [_figures(found)] if found else []
    return [("other", "Other", join(parts))] if parts else []
