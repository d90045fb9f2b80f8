"""Build HTML in which all text is escaped; there are no scripts and no links to a network."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from hklflow.page.pictures import Picture
from hklflow.page.style import STYLE


class Html(str):
    """Text that is already markup; all other text is escaped by `tag`."""

    __slots__ = ()


def tag(name: str, /, *content: str | Iterable[str], **attributes: Any) -> Html:
    """Make an element; ``class_`` is written ``class``, an attribute that is True as its name."""
    words = [name]
    for key, value in attributes.items():
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(f'{key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"')
    if name in ("img", "input", "meta"):
        return Html(f"<{' '.join(words)}>")
    return Html(f"<{' '.join(words)}>{join(content)}</{name}>")


def join(parts: Iterable[str | Iterable[str]]) -> Html:
    """Join parts in order; text that is not markup is escaped."""
    out = []
    for part in parts:
        if isinstance(part, Html):
            out.append(str(part))
        elif isinstance(part, str):
            out.append(html.escape(part))
        else:
            out.append(join(part))
    return Html("".join(out))


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, names: int = 1, class_: str = ""
) -> Html:
    """Make a table whose first ``names`` columns are row headers; a wide table can be scrolled."""

    def row(cells: Sequence[str]) -> Html:
        return tag(
            "tr",
            [tag("th", cell, scope="row") for cell in cells[:names]],
            [tag("td", cell) for cell in cells[names:]],
        )

    top = tag("thead", tag("tr", [tag("th", cell, scope="col") for cell in head]))
    body = tag("tbody", [row(cells) for cells in rows])
    return tag("div", tag("table", top, body, class_=class_ or None), class_="wide")


SIGNS = {"passed": ("✓", "good"), "doubtful": ("?", "warn"), "failed": ("✗", "bad")}
"""Sign and colour of each verdict; the sign is for readers who cannot distinguish colours."""


def badge(level: str | None) -> Html:
    """Show a verdict."""
    if level is None:
        return tag("span", "not judged", class_="note")
    sign, colour = SIGNS[level]
    return tag("span", f"{sign} {level}", class_=f"badge {colour}")


def prose(text: str) -> Html:
    """Show a sentence; what stands between backticks is code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return join([text])
    return join([tag("code", part) if i % 2 else part for i, part in enumerate(parts)])


def image(title: str, caption: str, picture: Picture) -> Html:
    """Show a picture."""
    return tag(
        "img", src=picture.uri, alt=f"{title}: {caption}" if caption else title,
        width=picture.size[0], height=picture.size[1],
    )  # fmt: skip


def gallery(pictures: Sequence[tuple[str, str, Picture]], name: str) -> Html:
    """Show pictures (title, caption, picture) side by side; a click enlarges a picture.

    Of a picture with several panels, the first is shown, large enough to be read; a click shows
    all.

    Parameters
    ----------
    name : str
        Name of the gallery, unique on the page.
    """
    figures = []
    for i, (title, caption, picture) in enumerate(pictures):
        box = f"{name}-{i}"
        words = [tag("b", title), f" {caption}" if caption else ""]
        figures += [
            tag("input", type="checkbox", id=box, aria_label=f"enlarge {title}"),
            tag(
                "figure",
                tag("label", image(title, caption, picture), for_=box, **_window(picture)),
                tag("figcaption", words),
            ),
        ]
    return tag("div", figures, class_="gallery")


_LEAST = 200  # pixels of a panel that is not blurred when it is shown alone


def _window(picture: Picture) -> dict[str, str]:
    """Return class and style of a label that shows the first panel of its picture alone."""
    if picture.panel is None:
        return {}
    left, top, right, bottom = picture.panel
    width, height = (right - left) * picture.size[0], (bottom - top) * picture.size[1]
    if width < _LEAST:
        return {}
    # The style sheet enlarges the picture and moves it; percentages are of the label's width.
    style = (
        f"--ratio:{width / height:.3f};--width:{1 / (right - left):.2%};"
        f"--left:{-left / (right - left):.2%};--top:{-top * picture.size[1] / width:.2%}"
    )
    return {"class_": "panel strip" if width > 2 * height else "panel", "style": style}


# The browser must not load anything from a network, whatever a text contains.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, *content: str | Iterable[str], renewed: float | None = None) -> str:
    """Return the whole page; a browser reads it again after ``renewed`` seconds."""
    again = [] if renewed is None else [tag("meta", http_equiv="refresh", content=f"{renewed:g}")]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        *again,
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', join(content)), lang='en')}\n"
