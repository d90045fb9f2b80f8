"""Say in a product of any format that it is diagnostic, and why.

NeXus and JSON products contain their history, and `contract` writes the reasons next to it. Files
that a command makes of a diagnostic product also say it in their name.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from hklflow.base import notes
from hklflow.base.errors import HklflowError
from hklflow.base.history import WORD

NAME_ONLY = (".npy",)
"""Formats without a place for a text; commands write them, and their names have the word."""


def write(path: Path, reasons: Sequence[str], suffix: str | None = None) -> None:
    """Write the reasons into a product; a format of `NAME_ONLY` stays as it is.

    A temporary path may have another suffix than the product.

    Raises
    ------
    KeyError
        If the format is neither in `WRITERS` nor in `NAME_ONLY`: a fault of the program, and not a
        product without its tag.
    """
    suffix = suffix or path.suffix
    if suffix not in NAME_ONLY:
        WRITERS[suffix](path, [f"{WORD}: {reason}" for reason in reasons])


def require_name(target: Path, source: Path, reasons: str) -> None:
    """Refuse to write a diagnostic product under the name of a reduced one.

    Parameters
    ----------
    target : Path
        File or folder that a command will write.
    source : Path
        Product that it is made of.
    reasons : str
        Why the product is diagnostic; empty for a reduced product.

    Raises
    ------
    HklflowError
        If the product is diagnostic and the name of the target does not say so.
    """
    if reasons and WORD not in target.name.lower():
        name = f"{target.stem}_{WORD}{target.suffix}"
        raise HklflowError(
            f"{source} is {WORD} ({reasons}), and the name {target.name} does not say so; write "
            f"it to {target.with_name(name)}"
        )


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


def _poni(path: Path, sentences: Sequence[str]) -> None:
    """Add comments at the end; pyFAI skips them."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"# {' '.join(sentence.split())}\n" for sentence in sentences)


def _markdown(path: Path, sentences: Sequence[str]) -> None:
    """Add a paragraph for each sentence at the end."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"\n{' '.join(sentence.split())}\n" for sentence in sentences)


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
    ".poni": _poni,
    ".mtz": _mtz,
    ".html": _html,
    ".md": _markdown,
    ".png": _png,
}
"""Function for each suffix that adds the sentences to a file."""
