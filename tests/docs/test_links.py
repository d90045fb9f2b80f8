"""Links between the files that people read in the repository lead somewhere."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        REPOSITORY / "config/README.md",
        *(REPOSITORY / "docs").glob("*.md"),
    ]
)
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"(?<![\w/])docs/[\w/.-]+?\.(?:md|py|png)\b")


def anchors(path: Path) -> set[str]:
    """Names that a browser can jump to: headings, as the repository's web pages call them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = set()
    for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
        found.add(words.replace(" ", "-"))
    return found


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong = []
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken(page)


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A b\n[x](#a-b) [y](gone.md) [z](#a-c) [w](page.md#a-b) `[v](no.md)`\n")
    assert broken(page) == ["gone.md", "#a-c"]


def test_pages_that_code_and_messages_name_exist() -> None:
    folders = ("src", "workflow", "profiles", "config", "tests", "benchmarks", "envs", "demo")
    files = [
        path
        for folder in folders
        for path in (REPOSITORY / folder).rglob("*")
        if path.suffix in {".py", ".smk", ".yaml", ".md", ".rst", ".sh"}
    ]
    files += [REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "Makefile")]
    named = {
        (path, name)
        for path in files
        if path.is_file() and path != Path(__file__)
        for name in NAMED.findall(path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    lost = {name for _, name in named if not (REPOSITORY / name).exists()}
    assert not lost, {str(path) for path, name in named if name in lost}
