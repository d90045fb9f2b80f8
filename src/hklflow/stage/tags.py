"""Say in a product of any format that it is diagnostic, and why.

NeXus and JSON products contain their history, and `contract` writes the reasons next to it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from hklflow.base import notes


def write(path: Path, reasons: Sequence[str], suffix: str | None = None) -> None:
    """Write the reasons into a product; formats that have no place for them stay as they are.

    A temporary path may have another suffix than the product.
    """
    writer = WRITERS.get(suffix or path.suffix)
    if writer is not None:
        writer(path, [f"diagnostic: {reason}" for reason in reasons])


def _tsv(path: Path, sentences: Sequence[str]) -> None:
    """Add a column, so that each row says it and a reader by column names still works."""
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    text = " | ".join(" ".join(sentence.split()) for sentence in sentences)
    lines = [f"{head}\tquality", *(f"{row}\t{text}" for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _hkl(path: Path, sentences: Sequence[str]) -> None:
    """Add lines at the end: SHELXL reads up to the line of zeros."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{sentence}\n" for sentence in sentences)


def _mtz(path: Path, sentences: Sequence[str]) -> None:
    from hklflow.formats.mtz import add_history

    add_history(path, sentences)


def _html(path: Path, sentences: Sequence[str]) -> None:
    from html import escape

    head, body, rest = path.read_text(encoding="utf-8").partition("<body>")
    alarms = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
    path.write_text(f'{head}{body}<div class="alarm">{alarms}</div>{rest}', encoding="utf-8")


def _png(path: Path, sentences: Sequence[str]) -> None:
    notes.warn(path, "; ".join(sentences))


WRITERS: dict[str, Callable[[Path, Sequence[str]], None]] = {
    ".tsv": _tsv,
    ".hkl": _hkl,
    ".mtz": _mtz,
    ".html": _html,
    ".png": _png,
}
"""Function for each suffix that adds the sentences to a file."""
