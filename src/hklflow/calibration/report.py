"""HTML page for judging a calibration: one file with its pictures inside.

The page may be opened from a disk or sent by mail, so it has no links to other files.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em;
       color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; margin: 0.6em 0; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid #ddd; padding: 0.2em 0.8em; text-align: left; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
tr.failed td { background: #fbe3e0; } tr.passed td:first-child { color: #17692b; }
img { max-width: 100%; border: 1px solid #ddd; } figcaption { color: #555; margin: 0.3em 0 1.5em; }
.verdict { padding: 0.6em 1em; background: #e5f3e8; } .verdict.failed { background: #fbe3e0; }
"""

_NUMBER = " class=n"

Row = Sequence[Any]


def number(value: Any) -> str:
    """Format a value: seven digits for a number, a dash for None."""
    if isinstance(value, bool) or value is None:
        return {None: "–", True: "yes", False: "no"}[value]
    if isinstance(value, float):
        return f"{value:.7g}" if math.isfinite(value) else "–"
    if isinstance(value, list | tuple):
        return ", ".join(number(item) for item in value)
    return str(value)


def table(columns: Sequence[str], rows: Iterable[Row], classes: Sequence[str] = ()) -> str:
    """Return an HTML table; numbers are aligned to the right.

    Parameters
    ----------
    columns
        Headings of the columns.
    rows
        Values of each row.
    classes
        CSS class of each row; empty: no classes.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = []
    for i, row in enumerate(rows):
        cells = "".join(
            f"<td{_NUMBER if isinstance(value, int | float) else ''}>{escape(number(value))}</td>"
            for value in row
        )
        body.append(f"<tr{f' class={classes[i]}' if classes else ''}>{cells}</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def gates_table(gates: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the gates with value and limit; failed gates are marked."""
    rows = [
        ("passed" if g["passed"] else "FAILED", g["name"], g["value"], g["limit"], g["sentence"])
        for g in gates
    ]
    classes = ["passed" if g["passed"] else "failed" for g in gates]
    return table(("", "gate", "value", "limit", "what it says"), rows, classes)


def verdict(gates: Sequence[Mapping[str, Any]]) -> str:
    """Return one line with the number and the names of the failed gates."""
    failed = [str(g["name"]) for g in gates if not g["passed"]]
    if not failed:
        return f'<p class="verdict">All {len(gates)} gates passed.</p>'
    text = f"{len(failed)} of {len(gates)} gates failed: {', '.join(failed)}."
    return f'<p class="verdict failed">{escape(text)}</p>'


def figure(picture: Path, caption: str) -> str:
    """Return a PNG picture as HTML, embedded in the page."""
    data = base64.b64encode(picture.read_bytes()).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return a complete page from headings and their HTML."""
    parts = [f"<h2>{escape(heading)}</h2>\n{html}" for heading, html in sections]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{''.join(parts)}\n</body></html>\n"
    )
