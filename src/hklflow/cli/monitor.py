"""Write the state of an experiment as an HTML page that renews itself."""

import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from hklflow.base.errors import HklflowError
from hklflow.cli.draw import published
from hklflow.cli.progress import DONE, FAIL, HELD, LOST, OLD, RUN
from hklflow.page.markup import document, table, tag

_CLASSES = {
    DONE: "good", RUN: "badge", FAIL: "badge bad", LOST: "badge bad", OLD: "badge warn",
    HELD: "badge warn",
}  # fmt: skip
_OURS = "State by hklflow status"
_HEAD = 20_000  # bytes in which it stands
_COLOUR = re.compile(r"\x1b\[\d+m")


def write(
    path: Path, name: str, states: Sequence[list[str]], lines: Iterable[str], every: float | None
) -> None:
    """Write the page.

    Parameters
    ----------
    name : str
        Title.
    states : sequence of list of str
        Table of scans with its head: sample, scan and the state of each step; may be empty.
    lines : iterable of str
        Lines below the table.
    every : float or None
        Seconds after which a browser reads the page again; None: never.

    Raises
    ------
    HklflowError
        If the name does not end with ``.html``, another file has it, or its folder does not exist.
    """
    if path.suffix.lower() != ".html":
        raise HklflowError(f"{path}: give the page a name that ends with .html")
    if path.exists() and not path.read_bytes()[:_HEAD].count(_OURS.encode()):
        raise HklflowError(f"{path} exists and is no page of `hklflow status`; give another name")
    head, *rows = states or [[]]
    shown = [
        [sample, scan, *(tag("span", x, class_=_CLASSES.get(x.split(" ")[-1])) for x in cells)]
        for sample, scan, *cells in rows
    ]
    words = "\n".join(_COLOUR.sub("", line) for line in lines).strip()
    text = document(
        name,
        tag("h1", name),
        tag("p", f"{_OURS}, {time.strftime('%Y-%m-%d %H:%M:%S')}", class_="lead"),
        table(head, shown, names=2, class_="words"),
        tag("pre", words),
        renewed=every,
    )
    with published(path, silent=True) as partial:
        partial.write_text(text, encoding="utf-8")
