"""Page of an experiment: the verdict on each scan of each sample, on one screen."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import hklflow
from hklflow.page.markup import SIGNS, Html, document, join, tag
from hklflow.quality import verdict

_FEW = 8  # scans that leave room for a long reason


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    rows : sequence of mapping
        ``sample``, ``scan``, ``temperature`` (K, or None), ``verdict`` and ``reasons`` (a list) of
        each scan; scans of a sample in the order of its page. If a sample has another axis, rows
        have ``value`` and ``axis`` (its label) too.
    """
    samples: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        samples.setdefault(row["sample"], []).append(row)
    levels = [row["verdict"] for row in rows]
    counts = (
        f"{len(found)} {word}{'s' * (len(found) != 1)}"
        for word, found in (("sample", samples), ("scan", rows))
    )
    lead = " · ".join((*counts, verdict.counted(levels)))
    # Samples along another axis have it in the rows; without any, all are temperatures.
    other = any("axis" in row for row in rows)
    title = "Scans: value along the axis" if other else "Scans: temperature in K"
    head = tag("tr", [tag("th", x, scope="col") for x in ("Sample", title, "Most serious")])
    body = [_sample(name, scans) for name, scans in samples.items()]
    return document(
        "All samples",
        tag("h1", "All samples"),
        tag("p", lead, class_="lead"),
        tag(
            "div",
            tag("table", tag("thead", head), tag("tbody", body), class_="words scans"),
            class_="wide",
        ),
        tag("p", "✓ passed, ? doubtful, ✗ failed. Click a scan for its page.", class_="note"),
        tag("footer", f"hklflow {hklflow.__version__}", class_="note"),
    )


def _sample(name: str, scans: Sequence[Mapping[str, Any]]) -> Html:
    page = f"../{name}/{name}.html"
    cells = [_scan(row, f"{page}#scan-{i}") for i, row in enumerate(scans)]
    if "axis" in scans[0]:
        cells = [tag("span", f"{scans[0]['axis']}:", class_="note"), *cells]
    worst = max(scans, key=lambda row: verdict.LEVELS.index(row["verdict"]))
    said = f"{worst['scan']}: {_reason(name, worst)}" if worst["reasons"] else ""
    brief = "brief" if len(scans) > _FEW else "brief long"
    return tag(
        "tr",
        tag("th", tag("a", name, href=page), scope="row"),
        tag("td", join(cells)),
        tag("td", tag("div", said, class_=brief, title=said or None)),
    )


def _reason(sample: str, row: Mapping[str, Any]) -> str:
    """Return the first reason without the names of sample and scan, which stand before it."""
    return re.sub(
        rf"^{re.escape(sample)} {re.escape(row['scan'])}( at [^:]*)?: ", "", row["reasons"][0]
    )


def _scan(row: Mapping[str, Any], link: str) -> Html:
    sign, colour = SIGNS[row["verdict"]]
    value = row.get("value", row["temperature"])
    known = value is not None and math.isfinite(value)
    words = f"{sign} {f'{value:g}' if known else row['scan']}"
    title = "\n".join((f"{row['scan']}: {row['verdict']}", *row["reasons"]))
    return tag("a", words, href=link, title=title, class_=f"badge {colour}")
