"""Page of a sample: what came out, quality, every step of every scan, plots against temperature."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import hklflow
from hklflow.page.content import Page
from hklflow.page.markup import Html, badge, document, gallery, join, table, tag
from hklflow.page.numbers import flat, formatted, placed, with_error
from hklflow.page.opening import opening, repeated
from hklflow.page.overview import overview
from hklflow.page.pictures import Picture
from hklflow.page.place import Place
from hklflow.page.steps import STEPS

_SAID = (
    "provenance",
    "diagnostic",
    "warnings",
    "notes",
    "failures",
    "sentences",
    "doubts",
)  # not shown as metrics, or shown elsewhere


def render(page: Page) -> str:
    """Return the page as HTML."""
    closing = [*_temperatures(page), *_stacks(page), *_crystals(page), *_others(page)]
    links = [("overview", "Quality")]
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
        opening(page),
        _section("overview", "Scans and their quality", overview(page)),
        _calibration(page),
        tag("h2", "Steps of each scan"),
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


def _lead(page: Page) -> str:
    known = [t for t in page.scans.values() if math.isfinite(t)]
    groups = dict.fromkeys(one.space_group for one in page.orientations.values())
    words = [f"{len(page.scans)} scan{'' if len(page.scans) == 1 else 's'}"]
    if known:
        low, high = min(known), max(known)
        words.append(page.axis.at(low) if low == high else f"{low:g} to {page.axis.at(high)}")
    words += groups
    return " · ".join(words)


# ------------------------------------------------------------------------------ the parts


def _pictures(shown: Sequence[tuple[Place, Picture]], name: str) -> Html:
    return gallery([(at.title, at.product.caption, picture) for at, picture in shown], name)


def _calibration(page: Page) -> Html:
    shown = page.shown("calibration")
    if not shown:
        return Html("")
    head = tag("summary", "Rings and residuals")
    folded = tag("details", head, _pictures(shown, "calibration"), class_="figures")
    return _section("calibration", "Calibration", folded)


def _scan(page: Page, number: int, scan: str) -> Html:
    judged = page.judged(scan)
    level = badge(None if judged is None else judged.verdict)
    head = tag("summary", f"{scan} ", level, tag("span", _brief(page, scan), class_="note"))
    shown = page.shown("scan", scan)
    parts = []
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
    return tag("details", head, parts, class_="scan", id=f"scan-{number}")


def _brief(page: Page, scan: str) -> str:
    words = [placed(page.scans[scan], page.axis)]
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
    shown = [
        (replace(at, product=replace(at.product, title=f"Against {page.axis.name}")), picture)
        if at.path.stem == "series"
        else (at, picture)
        for at, picture in page.shown("series")
    ]
    said = [x for at, data in page.figures if at.part == "series" for x in data["sentences"]]
    sentences = repeated(page, said)
    if not shown and not sentences:
        return []
    box = tag("div", [tag("p", x) for x in sentences], class_="alarm mild") if sentences else ""
    return [
        (
            "series",
            f"Cell against {page.axis.name}",
            join([box, _pictures(shown, "series")]),
        )
    ]


def _stacks(page: Page) -> list[tuple[str, str, Html]]:
    shown = page.shown("stack")
    parents = dict.fromkeys(at.owner for at, _ in shown)
    parts = []
    for i, parent in enumerate(parents):
        pictures = [x for x in shown if x[0].owner == parent]
        parts += [tag("h3", f"Parent {parent}"), _pictures(pictures, f"stack-{i}")]
    return [("stacks", f"Intensities against {page.axis.name}", join(parts))] if parts else []


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
            formatted(row["observations"], "{:,}"),
            row["indices"] or "–",
            formatted(row["delta CC1/2"], "{:.4f}"),
            formatted(row["significance"], "{:.1f}"),
            formatted(row["scale"], "{:.4g}"),
            formatted(row["B"], "{:.3f}"),
        ]
        for row in data["scans"]
    ]
    overall = data["overall"]
    words = ", ".join(
        f"{name} {formatted(overall[name], form)}"
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
