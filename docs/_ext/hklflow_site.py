"""What Sphinx does not do by itself: generated pages, pictures of graphs, equations, links.

A page has `<!-- site: NAME ARGUMENT -->` where the text of `reference.NAME(ARGUMENT)` goes. Pages
are written for readers of the repository too, so links lead to files; what is no page of the
site is named by its path in the repository.
"""

import posixpath
import re
from typing import TYPE_CHECKING, Any

import pictures
import reference
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARK = re.compile(r"^<!-- site: (\w+)(?: ([\w.]+))? -->$", re.MULTILINE)
MERMAID = re.compile(r"^```mermaid\n(.*?)\n```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1`*$", re.MULTILINE | re.DOTALL)

# Pages that stand elsewhere in the repository: their text, and where their links start.
ELSEWHERE = {"config/README.md": "configuration", "CHANGELOG.md": "changelog"}


def read(app: "Sphinx", name: str, content: list[str]) -> None:
    """Make the text that Sphinx reads from a page."""
    text = rendered(content[0])
    folders = {page: posixpath.dirname(path) for path, page in ELSEWHERE.items()}
    content[0] = linked(text, name, folders.get(name, "docs"))


def rendered(text: str) -> str:
    """Fill in what is generated and draw the graphs."""

    def generated(mark: re.Match[str]) -> str:
        made = getattr(reference, mark[1])
        return str(made(mark[2]) if mark[2] else made())

    def drawn(graph: re.Match[str]) -> str:
        return f"```{{raw}} html\n<figure>{pictures.from_mermaid(graph[1])}</figure>\n```"

    return MERMAID.sub(drawn, MARK.sub(generated, text))


def linked(text: str, page: str, folder: str) -> str:
    """Lead links, which start at a folder of the repository, to pages of the site."""

    def led(link: re.Match[str]) -> str:
        mark, words, target = link.groups()
        if re.match(r"\w+:|#", target):
            return link[0]
        name, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(folder, name))
        if (address := _page(path, anchor)) is not None:
            return f"{mark}[{words}]({address})"
        return words if path in words else f"{words} (`{path}`)"

    parts, at = [], 0
    for code in CODE.finditer(text):  # nothing in a block of code is a link
        parts += [LINK.sub(led, text[at : code.start()]), code[0]]
        at = code.end()
    return "".join([*parts, LINK.sub(led, text[at:])])


def _page(path: str, anchor: str) -> str | None:
    """Address of a file on the site; None if it is no page of it."""
    suffix = f"#{anchor}" if anchor else ""
    if path in ELSEWHERE:
        return f"{ELSEWHERE[path]}.md{suffix}"
    if path.startswith("docs/"):
        return path.removeprefix("docs/") + suffix
    if not (reference.ROOT / path).exists():
        raise ValueError(f"a link to {path}, which does not exist")
    return None


# ---------------------------------------------------------------------------- equations


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: "Sphinx") -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", read)
    # Browsers draw MathML: no script, no net.
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
