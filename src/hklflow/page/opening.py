"""First screen of the page of a sample: what came out, whether it is good, and what to do."""

import re
from collections.abc import Sequence
from itertools import groupby

from hklflow.page.content import Page
from hklflow.page.markup import Html, badge, image, join, prose, tag
from hklflow.page.messages import Message, messages
from hklflow.page.pictures import Picture
from hklflow.quality import verdict

_MOST = 3  # messages that are not folded
_MEASURE = re.compile(r"\bmeasure (?:a|longer|more|to|with)\b")  # in the remedies of the gates
_CLASSES = {"failed": "alarm", "doubtful": "alarm mild", "note": "alarm plain"}

# Volumes for S(Q) and the pair distribution: the first that exists.
_S_OF_Q = (
    "planes_symm_masked_transform", "planes_symm_transform", "symm_masked_transform",
    "symm_transform", "masked_transform", "transform",
)  # fmt: skip
_PDF = ("delta_pdf_masked_transform", "delta_pdf_transform")


def opening(page: Page) -> Html:
    """Return the verdicts, the first messages, and three pictures."""
    said = messages(page)
    serious = [x for x in said if x.severity != "note"]
    notes = [x for x in said if x.severity == "note"]
    shown, more = _first(serious)
    parts = [_verdicts(page), _boxes(shown)]
    if more:
        parts.append(_folded(f"{len(more)} more reason{'s' * (len(more) > 1)}", more))
    parts += [_next(page, serious), _findings(page), _pictures(page)]
    if notes:
        parts.append(_folded(f"{len(notes)} note{'s' * (len(notes) > 1)} of the steps", notes))
    return tag("section", parts, class_="first")


def chosen(page: Page) -> str | None:
    """Return the scan that the first screen shows: the first that failed, or the coldest."""
    shown = {at.owner for at, _ in page.pictures if at.part == "scan"}
    scans = [scan for scan in page.scans if scan in shown]
    failed = [s for s in scans if (x := page.judged(s)) is not None and x.verdict == "failed"]
    return next(iter([*failed, *scans]), None)


def _first(serious: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """Return the first messages with the first doubt, so that no verdict is unexplained; others."""
    shown = list(serious[:_MOST])
    if not any(x.severity == "doubtful" for x in shown):
        shown += [x for x in serious if x.severity == "doubtful"][:1]
    return shown, [x for x in serious if x not in shown]


def _verdicts(page: Page) -> Html:
    """Give each verdict with its scans and their number."""
    levels: dict[str, list[str]] = {}
    for scan in page.scans:
        if (judged := page.judged(scan)) is not None:
            levels.setdefault(judged.verdict, []).append(scan)
    if not levels:
        return Html("")
    number = {scan: i for i, scan in enumerate(page.scans)}
    parts = []
    for level in reversed(verdict.LEVELS):
        if scans := levels.get(level):
            links = join([tag("a", scan, href=f"#scan-{number[scan]}"), " "] for scan in scans)
            words = f"{len(scans)} of {len(page.scans)} scans: " if len(page.scans) > 1 else ""
            parts.append(tag("p", badge(level), " ", words, links, class_="verdict"))
    return tag("div", parts, class_="verdicts")


def _next(page: Page, serious: Sequence[Message]) -> Html:
    """Say what to do: whether to measure again, what to change, and what to open."""
    if not serious:
        judged = any(page.judged(scan) for scan in page.scans)
        words = "Next: look into volumes, frames and peaks with `hklflow view`."
        return tag("p", prose(words), class_="next") if judged else Html("")
    again = [x.where for x in serious if _MEASURE.search(x.text)]
    words = "None of these reasons asks for a new measurement. "
    if again:
        words = f"A reason proposes a new measurement: {'; '.join(dict.fromkeys(again))}. "
    scan = serious[0].places[0][0]
    link = tag("a", f"steps of {scan}", href=f"#scan-{list(page.scans).index(scan)}")
    failed = serious[0].severity == "failed"
    do = "Next: do what the first box says and run `snakemake` again. " if failed else "Next: "
    look = "To see why, look at the " if failed else "look at the "
    rest = prose(", and at volumes, frames and peaks with `hklflow view`.")
    return tag("p", words, prose(do), look, link, rest, class_="next")


def _findings(page: Page) -> Html:
    """List what order parameters say, and the first sentence on each series of pair distributions.

    Each sentence has the command that shows it.
    """
    orders, pairs = [], []
    for at, data in page.figures:
        if at.part == "series" and at.path.stem == "order":
            orders += data["findings"][: len(data["sentences"])]
        elif at.part == "stack" and at.path.stem.startswith("pdf_series_"):
            pairs += data["findings"][:1]
    rows = [*orders[:_MOST], *pairs]
    items = [tag("li", prose(row["sentence"]), " ", tag("code", row["command"])) for row in rows]
    return tag("ul", items, class_="findings") if items else Html("")


def _boxes(found: Sequence[Message]) -> Html:
    """Show messages; those of the same scans are in one box."""
    parts = []
    for (severity, where), group in groupby(found, key=lambda x: (x.severity, x.where)):
        head = tag("b", where, ": ")
        words = [tag("p", head if i == 0 else "", prose(x.text)) for i, x in enumerate(group)]
        parts.append(tag("div", words, class_=_CLASSES[severity]))
    return join(parts)


def _folded(title: str, found: Sequence[Message]) -> Html:
    return tag("details", tag("summary", title), _boxes(found), class_="figures")


def pictures(page: Page) -> list[tuple[str, str, Picture]]:
    """Return title, link and picture: a plane of S(Q) and of the pair distribution, the series."""
    scan = chosen(page)
    shown: list[tuple[str, str, Picture]] = []
    if scan is not None:
        of_scan = {at.path.stem: picture for at, picture in page.shown("scan", scan)}
        place = f"scan-{list(page.scans).index(scan)}"
        judged = page.judged(scan)
        mark = ", not accepted" if judged is not None and judged.verdict == "failed" else ""
        for title, names in (("S(Q)", _S_OF_Q), ("3D-ΔPDF", _PDF)):
            if found := next((of_scan[name] for name in names if name in of_scan), None):
                shown.append((f"{title} of {scan}{mark}", place, found.first))
    for at, picture in page.shown("series"):
        if at.path.stem == "series":
            shown.append((f"Against {page.axis.name}", "series", picture.first))
    return shown


def _pictures(page: Page) -> Html:
    figures = [
        tag(
            "figure",
            tag("a", image(title, "", picture), href=f"#{place}"),
            tag("figcaption", title),
        )
        for title, place, picture in pictures(page)
    ]
    return tag("div", figures, class_="opening") if figures else Html("")


def repeated(page: Page, sentences: Sequence[str]) -> list[str]:
    """Return the sentences that the messages of the scans do not contain."""
    known = {x for scan in page.scans if (judged := page.judged(scan)) for x in judged.reasons}
    return [x for x in sentences if x not in known]
