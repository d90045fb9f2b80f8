"""The site builds without a warning, leads nowhere wrong, and its reference leaves nothing out."""

import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from hklflow.cli import app
from hklflow.experiment import schema

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
RULES = REPOSITORY / "workflow/rules"


class Page(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.pictures = 0
        self.equations = 0
        self.words: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors.add(given.get("id", ""))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") in {"stylesheet", "preload"}:
            self.loaded.append(given["href"])
        self.pictures += tag == "svg" and given.get("class") == "graph"
        self.equations += tag == "math"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-n", "-E", "-q"]
    made = subprocess.run(
        [*command, "-d", str(folder.parent / "doctrees"), str(REPOSITORY / "docs"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        # What a proxy would have to fetch fails: nothing may be fetched.
        env={**os.environ, "http_proxy": "http://[::1]:9", "https_proxy": "http://[::1]:9"},
    )
    assert made.returncode == 0, (made.stdout + made.stderr)[-1500:]
    assert not made.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    return {path.name: Page(path.read_text(encoding="utf-8")) for path in site.glob("*.html")}


def test_every_page_is_there(pages: dict[str, Page]) -> None:
    sources = {path.stem for path in (REPOSITORY / "docs").glob("*.md")}
    assert sources <= {name.removesuffix(".html") for name in pages}


def test_links_and_anchors_resolve(site: Path, pages: dict[str, Page]) -> None:
    lost = set()
    for name, page in pages.items():
        for link in page.links:
            if "://" in link or link.startswith("mailto:"):
                continue
            target, _, anchor = unquote(link).partition("#")
            known = pages.get(target or name)
            if known is None:
                if not (site / target).is_file():
                    lost.add((name, link))
            elif anchor and anchor not in known.anchors:
                lost.add((name, link))
    assert not lost


def test_nothing_is_loaded_from_elsewhere(pages: dict[str, Page]) -> None:
    loaded = {source for page in pages.values() for source in page.loaded}
    assert loaded
    assert not {source for source in loaded if "://" in source or source.startswith("//")}


def test_graphs_and_equations_are_drawn(pages: dict[str, Page]) -> None:
    assert pages["experiment.html"].pictures == 2
    assert pages["architecture.html"].pictures == 1
    for rule in ("refine_parent", "transform", "sample_page"):
        assert rule in pages["experiment.html"].text
    assert pages["estimator.html"].equations > 10
    assert pages["frames.html"].equations > 10


def keys() -> Iterator[str]:
    """Every key of the configuration's schema, at whatever depth."""
    whole = schema.Config.model_json_schema()
    for model in (whole, *whole["$defs"].values()):
        yield from model.get("properties", {})


def test_every_key_is_in_the_reference(pages: dict[str, Page]) -> None:
    words = set(pages["configuration.html"].text.split())
    missing = {key for key in keys() if key not in words}
    # A field that only tells the kinds of an entry apart is named in another way.
    assert not missing


def commands(group: object = app, above: str = "hklflow") -> Iterator[str]:
    for name in group:  # type: ignore[attr-defined]
        if not name.startswith("-"):
            yield f"{above} {name}"
            yield from commands(group[name], f"{above} {name}")  # type: ignore[index]


def test_every_command_is_in_the_reference(pages: dict[str, Page]) -> None:
    text = pages["commands.html"].text
    known = list(commands())
    assert len(known) > 30
    assert not [command for command in known if command not in text]


def test_every_stage_and_product_is_in_the_reference(pages: dict[str, Page]) -> None:
    stages = {path.stem for path in (REPOSITORY / "src/hklflow/stages").glob("[a-z]*.py")}
    assert stages <= pages["stages.html"].anchors | {
        anchor.replace("-", "_") for anchor in pages["stages.html"].anchors
    }
    for option in ("--frame-mask", "--sample-frames", "--grid-limits"):
        assert option in pages["stages.html"].text
    for path in (
        "results/{sample}/{scan}/{kind}.nxs",
        "results/{sample}/{scan}/{rotation}/frame_mask.nxs",
        "results/overview/summary.tsv",
        "results/{sample}/{scan}/{sample}_{scan}.nxs",
    ):
        assert path in pages["products.html"].text


@pytest.mark.parametrize("table", ["SAMPLE_COLUMNS", "SCAN_COLUMNS"])
def test_every_column_is_in_the_reference(table: str, pages: dict[str, Page]) -> None:
    from hklflow.experiment import tables

    words = pages["configuration.html"].text.replace(",", " ").split()
    assert set(getattr(tables, table)) <= set(words)
