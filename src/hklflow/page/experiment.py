"""Page of an experiment: the verdict on each scan of each sample, on one screen."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import hklflow
from hklflow.page.markup import SIGNS, Html, document, join, tag
from hklflow.quality import verdict


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    rows : sequence of mapping
        ``sample``, ``scan``, ``temperature`` (K, or None), ``verdict`` and ``reasons`` (a list) of
        each scan; scans of a sample in the order of its page.
    """
    samples: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        samples.setdefault(row["sample"], []).append(row)
    levels = [row["verdict"] for row in rows]
    lead = f"{len(samples)} samples · {len(rows)} scans · {verdict.counted(levels)}"
    head = tag(
        "tr",
        [tag("th", x, scope="col") for x in ("Sample", "Scans: temperature in K", "Most serious")],
    )
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
    worst = max(scans, key=lambda row: verdict.LEVELS.index(row["verdict"]))
    said = f"{worst['scan']}: {worst['reasons'][0]}" if worst["reasons"] else ""
    return tag(
        "tr",
        tag("th", tag("a", name, href=page), scope="row"),
        tag("td", join(cells)),
        tag("td", tag("div", said, class_="brief", title=said or None)),
    )


def _scan(row: Mapping[str, Any], link: str) -> Html:
    sign, colour = SIGNS[row["verdict"]]
    temperature = row["temperature"]
    known = temperature is not None and math.isfinite(temperature)
    words = f"{sign} {f'{temperature:g}' if known else row['scan']}"
    title = "\n".join((f"{row['scan']}: {row['verdict']}", *row["reasons"]))
    return tag("a", words, href=link, title=title, class_=f"badge {colour}")
