"""The findings of a sample as text."""

from collections.abc import Mapping
from typing import Any

from hklflow.page.content import Page


def statement(page: Page) -> str:
    """Return the findings as Markdown: each sentence with the command that shows it.

    Findings of the order parameters, the diffuse features and the cell are first, then the changes
    of the 3D-ΔPDF. The verdicts of the scans are before them: sentences rely on scans that passed.
    """
    lines = [f"# Findings of {page.sample}", ""]
    verdicts = [(scan, page.judged(scan)) for scan in page.scans]
    judged = [f"{scan} {found.verdict}" for scan, found in verdicts if found is not None]
    if judged:
        lines += [f"Gates: {', '.join(judged)} (`hklflow status`).", ""]
    rows = [*_rows(page, "series", "order"), *_rows(page, "stack", "pdf_series_")]
    if not rows:
        lines += ["None: the cell follows its trend, and no vector was found or named.", ""]
    for row in rows:
        lines += [f"* {row['sentence']}", f"  `{row['command']}`"]
    return "\n".join(lines).rstrip() + "\n"


def _rows(page: Page, part: str, stem: str) -> list[Mapping[str, str]]:
    """Return the findings in the files of a part of the page whose names begin with ``stem``."""
    found: list[Mapping[str, Any]] = []
    for at, data in page.figures:
        if at.part == part and at.path.stem.startswith(stem):
            found += data["findings"]
    return found
