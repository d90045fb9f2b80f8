"""Stage `sample_page`: what stands on the page, that it is whole, and that it loads nothing."""

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.base.values import FIRST_PANEL
from hklflow.page import experiment, numbers, pictures
from hklflow.page import gates as page_gates
from hklflow.page.markup import gallery, join, prose, tag
from hklflow.page.numbers import with_error
from hklflow.page.steps import STEPS, Figure
from hklflow.plots import common
from hklflow.quality import gates, verdict
from hklflow.stage.scan_limits import ScanLimits
from hklflow.stages import sample_page
from tests.truth.orientations import orientation

CELL = [4.738575, 4.738575, 7.171209, 90.0, 90.0, 120.0]
OF_SCAN = (
    "difference_transform", "total_pdf_transform", "masked_transform", "transform",
    "transform_coverage", "symm_transform", "filled_transform", "delta_pdf_transform",
    "planes_symm_transform", "residuals", "surprise",
)  # fmt: skip
SIGMA = [1.7e-5, 1.7e-5, 3.6e-5, 0.0, 0.0, 0.0]


def _symmetry(unindexed: float = 0.01, a: float = 4.74, relative: float = 1e-6) -> dict[str, Any]:
    return {
        "crystal system": "hexagonal", "peaks": 900, "fraction unindexed": unindexed, "offsets": [],
        "absent reflections": {"number": 0, "of": 300, "fraction": 0.0, "strongest": []},
        "cell": [a, a, 7.17, 90.0, 90.0, 120.0], "cell_sigma": SIGMA,
        "volume": 139.45, "volume_sigma": 0.0012, "subgroups": [],
        "misfit": {"fixed": False, "peaks": 800, "rms in pixels": 0.5, "rms in frames": 0.01,
                   "reduced chi2": 1.1, "fraction indexed": 1 - unindexed, "least fraction": 0.2},
        "relations": [{"relation": "alpha = 90", "deviation": 0.0, "sigma": 1e-4, "unit": "deg",
                       "z": relative * 1e5, "relative": relative}],
    }  # fmt: skip


def _accepted(scan: str, **figures: float) -> dict[str, Any]:
    found = {
        "sample": "hexa", "scan": scan, "temperature": 100.0, "parent": "300K",
        "parent_temperature": 300.0, "space_group": "P 6/m m m",
    }  # fmt: skip
    limits = ScanLimits().limits()
    own, parent = _symmetry(**figures), _symmetry()
    sentences = gates.failures(own, parent, limits, found)
    doubts = verdict.doubts(own, parent, limits, found)
    return found | {
        "verdict": verdict.level(sentences, doubts), "doubts": doubts,
        "accepted": not sentences, "sentences": sentences, "limits": vars(limits),
        "figures": own, "parent_figures": parent,
    }  # fmt: skip


def _orientation(scan: str, warnings: list[str]) -> dict[str, Any]:
    return orientation(
        group="P 6/m m m", scan=scan, parent="300K", cell=np.array(CELL),
        cell_sigma=np.array(SIGMA), figures=_symmetry(0.009), warnings=warnings,
        metrics={"peaks": 1369, "fraction indexed": 0.997, "rmsd in pixels": 0.5364,
                 "rmsd in frames": 0.0119},
    ).to_dict()  # fmt: skip


def _picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def _figures(path: Path, data: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    stage.write_json(path, data)
    return path


def _results(top: Path) -> dict[str, list[Path]]:
    """Two scans, one refused; with most steps, in an order that is not the page's."""
    shown = [_picture(top / "calibration/powder/rings.png")]
    told = []
    for scan, figures in (("100K", {"unindexed": 0.4}), ("300K", {})):
        below = top / "hexa" / scan
        for name in OF_SCAN:
            shown.append(_picture(below / f"{name}.png"))
        for rotation in ("r1", "r2"):
            for name in ("peaks", "mask", "statistics", "scale", "frame_mask"):
                shown.append(_picture(below / rotation / f"{name}.png"))
            told.append(_figures(below / rotation / "peaks.json", {"peaks": 205, "few": [1, 2]}))
        told += [
            _figures(below / "r1/frame_mask.json", {"share": 0.0312, "names": ["x"]}),
            _figures(below / "accepted.json", _accepted(scan, **figures)),
            _figures(below / "orientation.json", _orientation(scan, ["of <i>this</i> & that"])),
            _figures(
                below / "transform.json", {"coverage": 0.654, "rotations' reduced chi2": None}
            ),
            _figures(below / "symm_transform.json", {"CC1/2": 0.99876, "warnings": ["weak & few"]}),
        ]
    series = top / "hexa/temperature_series"
    shown += [_picture(series / "series.png"), _picture(top / "hexa/stack_300K/transform.png")]
    told.append(_figures(series / "findings.json", {"sentences": ["a jumps"], "transitions": []}))
    finding = {"sentence": "at T_c = 5 K <x> appear", "command": "hklflow show order.json"}
    late = {"sentence": "a jumps", "command": "hklflow show series.nxs --plot"}
    told.append(
        _figures(
            series / "order.json",
            {"sentences": [finding["sentence"]], "findings": [finding, late], "vectors": []},
        )
    )
    return {"pictures": shown, "figures": told}


def _page(top: Path, given: dict[str, list[Path]], **more: Any) -> str:
    params = {"sample": "hexa", "results": str(top), "title": "hexa & <co>"}
    params |= {"scans": ["100K", "300K"], "temperatures": [100.0, float("nan")]} | more
    sample_page.main(
        inputs=sample_page.Inputs(**given),
        outputs=sample_page.Outputs(
            page=top / "page.html", small=top / "small.html", statement=top / "findings.md"
        ),
        params=sample_page.Params(**params),
    )
    return (top / "page.html").read_text()


@pytest.mark.slow
def test_the_page_in_the_report_is_one_that_browsers_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They give up addresses above 2 MB, which is how the report holds it: in base64."""
    products = _results(tmp_path)
    _page(tmp_path, products)
    small = (tmp_path / "small.html").read_text()
    assert small.count("data:image/webp") == 3 + len(products["pictures"])
    assert "Pictures are small here; hexa.html" in small
    noise = np.random.default_rng(1).integers(0, 255, (500, 500, 3), dtype=np.uint8)
    for path in products["pictures"][:12]:
        Image.fromarray(noise).save(path)
    large, small = _page(tmp_path, products), (tmp_path / "small.html").read_text()
    assert 4 / 3 * len(large.encode()) > 2_000_000
    assert 4 / 3 * len(small.encode()) < 2_000_000
    # Those of the steps would be too small to read; the first screen and the series stay.
    assert small.count("data:image/webp") == 3 + 5
    assert "Pictures of the steps are left out here; hexa.html" in small
    assert "Pictures" not in large
    # With no room at all the tables are left.
    monkeypatch.setattr(sample_page, "_LARGEST_IN_REPORT", 100_000)
    _page(tmp_path, products)
    small = (tmp_path / "small.html").read_text()
    assert "data:image" not in small
    assert "left out here" in small
    assert "Quality of each step" in small


class _Seen(HTMLParser):
    """Elements, attributes and text of a page; checks that all elements are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "input", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words += f"{data}\n"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    top = tmp_path_factory.mktemp("page") / "results"
    return _page(top, _results(top))


def test_the_page_stands_alone(page: str) -> None:
    seen = _Seen(page)
    for name, attributes in seen.tags:
        assert name not in ("script", "link", "iframe", "object", "base")
        assert not [key for key in attributes if key.startswith("on")]
        source = attributes.get("src")
        assert source is None or source.startswith("data:image/webp;base64,")
        assert (attributes.get("href") or "#").startswith("#")
    assert "url(" not in page
    assert "@import" not in page
    images = [x for name, x in seen.tags if name == "img"]
    assert len(images) == 3 + 1 + 2 * (11 + 10) + 2
    assert {(x["width"], x["height"]) for x in images} == {("40", "30")}


def test_links_and_switches_lead_somewhere(page: str) -> None:
    tags = _Seen(page).tags
    ids = Counter(x["id"] for _, x in tags if "id" in x)
    assert max(ids.values()) == 1
    wanted = {(x.get("href") or "#")[1:] for name, x in tags if name == "a"}
    wanted |= {str(x["for"]) for name, x in tags if name == "label"}
    assert wanted <= set(ids)


def test_steps_stand_in_their_order_in_every_scan(page: str) -> None:
    titles = [
        "Pixel mask", "Frames", "Peaks", "Scale of the frames", "Orientation", "3-D mask",
        "Coverage", "S(Q)", "Symmetrised", "Punched and filled", "Pair distributions",
        "Difference to the reference", "Other",
    ]  # fmt: skip
    scans = re.split(r'<details class="scan"', page)[1:]
    assert len(scans) == 2
    for scan in scans:
        assert [t for t in re.findall(r"<h3>(.*?)</h3>", scan) if "Parent" not in t] == titles
    order = ["Scans and their quality", "Calibration", "Steps of each scan",
             "Cell against temperature", "Intensities against temperature"]  # fmt: skip
    assert re.findall(r"<h2>(.*?)</h2>", page) == order
    assert [step.title for step in STEPS][1:-1] == [
        *titles[:2], "Artificial normalisation", *titles[2:4], "Background", titles[4],
        "Absorption", titles[5], "Bragg reflections", "Absolute scale", *titles[6:-1]
    ]  # fmt: skip


def test_numbers_and_errors_are_written_as_crystallographers_do(page: str) -> None:
    words = _Seen(page).words
    for number in ("4.738575(17)", "7.17121(4)", "1 369", "99.1%", "65.4%", "0.536, 0.012"):
        assert number in words
    assert "α = 90°, β = 90°, γ = 120°" in words
    # The volume of this cell is a² c sin 120°; its error is the refinement's.
    volume = CELL[0] ** 2 * CELL[2] * np.sin(np.radians(120))
    assert f"{volume:.4f}(12)" in words
    assert "100 K" in words
    assert "205 · 205" in words
    assert "0.9988" in words
    assert "0.0312" in words  # of a step whose numbers no table names


def test_a_failed_gate_is_seen(page: str) -> None:
    bad = re.findall(r'<span class="badge bad">(.*?)</span>', page)
    # In the first line, in the table of scans, twice in that of gates, and in the head of the scan.
    assert bad == ["✗ failed", "✗ failed", "✗ failed", "✗ failed: +39.0%", "✗ failed"]
    assert "40.0% of the peaks are not indexed" in page
    # Its orientation passed, but a step has a warning.
    assert page.count('<span class="badge warn">? doubtful</span>') == 4
    words = _Seen(page).words.replace("\n", " ")
    assert re.search(r"✗ failed +1 of 2 scans: +100K +\? doubtful +1 of 2 scans: +300K", words)


def test_the_first_screen_has_the_findings_with_their_commands(page: str) -> None:
    first = page.split('class="first"')[1].split("</section>")[0]
    assert "at T_c = 5 K &lt;x&gt; appear <code>hklflow show order.json</code>" in first
    assert "a jumps" not in first  # it is in its section


def test_many_vectors_leave_the_change_of_the_pdf_on_the_first_screen(tmp_path: Path) -> None:
    top = tmp_path / "results"

    def findings(words: str, n: int) -> dict[str, Any]:
        rows = [{"sentence": f"{words} {i}", "command": f"show {i}"} for i in range(n)]
        return {"sentences": [row["sentence"] for row in rows], "findings": rows}

    given = [
        _figures(top / "hexa/300K/accepted.json", _accepted("300K")),
        _figures(top / "hexa/temperature_series/order.json", findings("order", 5)),
        _figures(top / "hexa/stack_300K/pdf_series_transform.json", findings("pairs", 4)),
    ]
    text = _page(top, {"pictures": [], "figures": given})
    first = _Seen(text.split('class="first"')[1].split("</section>")[0]).words
    assert re.findall("order [0-9]|pairs [0-9]", first) == [
        "order 0",
        "order 1",
        "order 2",
        "pairs 0",
    ]


def test_the_statement_has_the_findings_of_all_stages_with_their_commands(tmp_path: Path) -> None:
    top = tmp_path / "results"
    order, pairs = (
        [{"sentence": f"{words} {i}", "command": f"hklflow show {words}/{i}"} for i in range(2)]
        for words in ("order", "pairs")
    )
    given = [
        _figures(top / "hexa/300K/accepted.json", _accepted("300K")),
        _figures(top / "hexa/stack_300K/pdf_series_transform.json", {"findings": pairs}),
        _figures(
            top / "hexa/temperature_series/order.json",
            {"findings": order, "sentences": ["order 0"]},
        ),
    ]
    _page(top, {"pictures": [], "figures": given})
    lines = (top / "findings.md").read_text().splitlines()
    assert lines[0] == "# Findings of hexa"
    assert lines[2] == "Gates: 300K passed (`hklflow status`)."
    expected = [x for row in (*order, *pairs) for x in (row["sentence"], row["command"])]
    assert [line.strip("* `") for line in lines[4:]] == expected
    _page(top, {"pictures": [], "figures": given[:1]})
    assert (top / "findings.md").read_text().splitlines()[-1].startswith("None: the cell follows")


def test_the_first_screen_says_what_to_do(page: str, tmp_path: Path) -> None:
    words = " ".join(_Seen(page).words.split())
    assert "None of these reasons asks for a new measurement. Next: do what the first box" in words
    assert "look at the steps of 100K , and at volumes" in words
    top = tmp_path / "results"

    def first(warnings: list[str]) -> str:
        given = [
            _figures(top / "hexa/300K/accepted.json", _accepted("300K")),
            _figures(top / "hexa/300K/r1/peaks.json", {"warnings": warnings}),
        ]
        text = _page(top, {"pictures": [], "figures": given})
        return " ".join(_Seen(text.split('class="first"')[1].split("</section>")[0]).words.split())

    assert first([]).endswith("Next: look into volumes, frames and peaks with hklflow view .")
    twin = first(["a twin: measure a single crystal, or mask the reflections"])
    assert "A reason proposes a new measurement: 300K (r1)." in twin
    assert "do what the first box says" not in twin


def test_the_first_screen_has_each_sentence_once_the_serious_first(page: str) -> None:
    seen = _Seen(page).words
    for sentence in ("40.0% of the peaks are not indexed", "weak & few", "of <i>this</i> & that"):
        assert seen.count(sentence) == 1
    failed, weak, note = (seen.index(x) for x in ("40.0%", "weak & few", "of <i>this"))
    assert failed < weak < note
    # The same sentence of both scans.
    first = re.search(r'<section class="first">(.*?)</section>', page, re.DOTALL)
    assert first
    assert "<b>100K, 300K: </b>weak &amp; few" in first[1]
    assert re.findall(r"<figcaption>(.*?)</figcaption>", first[1]) == [
        "S(Q) of 100K, not accepted", "3D-ΔPDF of 100K, not accepted", "Against temperature",
    ]  # fmt: skip
    assert page.index(first[1]) < page.index("<h2>")


def test_what_changes_the_results_most_is_first(tmp_path: Path) -> None:
    """A slip of 34 sigma was folded behind half a per cent of background of all scans."""
    top = tmp_path / "results"
    slip = "r1: the crystal slipped; in config.yaml `leave_out: [r1:1-2]`"
    said = {"100K": ["100K: 31 peaks lie at (1/2, 0, 0)"], "300K": [slip]}  # the page's order
    figures = []
    for scan, doubts in said.items():
        accepted = _accepted(scan) | {"verdict": "doubtful", "doubts": doubts}
        accepted["figures"] = accepted["figures"] | {
            "lost": [],
            "motions": [
                {
                    "sentence": slip,
                    "bias in sigma": 33.7,
                    "shift in pixels": 0.3,
                    "shift in frames": 0.2,
                }
            ],
        }
        figures.append(_figures(top / f"hexa/{scan}/accepted.json", accepted))
        warned = {"warnings": ["background differs by 0.5 %"]}
        figures.append(_figures(top / f"hexa/{scan}/r1/scale.json", warned))
    order = {"sentence": "to keep it, paste `features: x`", "command": "show"}
    figures.append(
        _figures(
            top / "hexa/temperature_series/order.json",
            {"sentences": [order["sentence"]], "findings": [order]},
        )
    )
    text = _page(top, {"pictures": [], "figures": figures})
    first = text.split('class="first"')[1].split("</section>")[0]
    places = [first.index(x) for x in ("the crystal slipped", "31 peaks", "background differs")]
    assert places == sorted(places)
    assert "<b>100K: </b>31 peaks lie" in first  # the scan is named once
    assert "paste <code>features: x</code>" in first


def test_sentences_that_differ_in_numbers_alone_are_one(tmp_path: Path) -> None:
    top = tmp_path / "results"
    figures = [
        _figures(top / f"hexa/{scan}/accepted.json", _accepted(scan)) for scan in ("100K", "300K")
    ]
    for scan, rotation, size in (("100K", "r1", 5.46), ("100K", "r2", 5.15), ("300K", "r1", 7.0)):
        said = {"warnings": [f"the level of {scan} differs by {size}% (limit 3%)", f"{size}, too"]}
        figures.append(_figures(top / f"hexa/{scan}/{rotation}/scale.json", said))
    figures.append(_figures(top / "hexa/300K/r1/peaks.json", {"warnings": ["8.0, too"]}))
    words = _Seen(_page(top, {"pictures": [], "figures": figures})).words
    assert words.count("differs by") == 1
    assert "100K (r1, r2), 300K (r1)" in words
    assert "the level of 100K differs by 5.46% (limit 3%)" in words
    # Another step means another thing.
    assert words.count(", too") == 2


def test_the_first_panel_of_a_picture_is_shown_alone(tmp_path: Path) -> None:
    figure = common.figure_of(6, 3)
    left, _ = figure.subplots(1, 2)
    left.set_title("left")
    left.imshow(np.full((4, 4), 3.0))
    path = tmp_path / "planes_symm_transform.png"
    common.save(figure, path)
    (whole,) = pictures.pack([path])
    with Image.open(path) as image:
        assert whole.size == image.size
    width, height = whole.first.size
    # Half of the picture, with the labels of its axes.
    assert 0.4 * whole.size[0] < width < 0.55 * whole.size[0]
    assert height <= whole.size[1]
    # In a gallery, the style sheet shows the same part: percentages are of the window's width.
    names = ("ratio", "width", "left", "top")
    shown = re.search(
        ";".join(rf"--{name}:(-?[\d.]+)%?" for name in names), gallery([("x", "", whole)], "x")
    )
    assert shown
    ratio, scale, x, y = map(float, shown.groups())
    assert ratio == pytest.approx(width / height, rel=0.01)
    assert whole.size[0] / (scale / 100) == pytest.approx(width, abs=1)
    with Image.open(path) as image:
        left, top, *_ = map(int, image.info[FIRST_PANEL].split())
    assert (-x / 100 * width, -y / 100 * width) == pytest.approx((left, top), abs=1)
    # A picture of another program has no panels; a small one is not enlarged.
    other = _picture(tmp_path / "other.png")
    assert pictures.pack([other])[0].first.size == (40, 30)
    for small in (*pictures.pack([other]), *pictures.pack([path], widths=[300])):
        assert "style" not in gallery([("x", "", small)], "x")


def test_a_number_that_nobody_knows_has_no_light() -> None:
    figure = Figure("χ²", "x", ("x",), expected=(0.8, 1.2))
    assert [figure.as_expected(x) for x in (1.0, 2.0, float("nan"), None, "no")] == [
        True, False, None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("chi2", "shown"), [(1.02, '<span class="good">1.02'), (2.4, '<span class="badge warn">? 2.40')]
)
def test_a_number_that_is_not_as_expected_is_marked(
    tmp_path: Path, chi2: float, shown: str
) -> None:
    top = tmp_path / "results"
    data = {"reduced chi2 of equivalents": chi2}
    figures = [
        _figures(top / f"hexa/100K/symm_{kind}.json", data)
        for kind in ("transform", "masked_transform")
    ]
    page = _page(top, {"pictures": [], "figures": figures})
    assert page.count(shown) == 1
    assert "(0.80 to 1.20)" in page


def test_texts_are_escaped(page: str) -> None:
    assert "<title>hexa &amp; &lt;co&gt;</title>" in page
    assert "of &lt;i&gt;this&lt;/i&gt; &amp; that" in page
    assert "<i>" not in page


def test_what_nobody_knows_is_shown_as_other(tmp_path: Path) -> None:
    top = tmp_path / "results"
    given = {"pictures": [_picture(top / "foreign/thing.png")], "figures": []}
    given["pictures"].append(_picture(tmp_path / "outside.png"))
    page = _page(top, given)
    assert "<h2>Other</h2>" in page
    assert "foreign/thing.png" in page
    assert "../outside.png" in page


def test_without_products_there_is_still_a_page(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    seen = _Seen(_page(tmp_path / "results", {"pictures": [], "figures": []}))
    assert "Calibration" not in seen.words
    assert "Gates" not in seen.words
    assert "2 scans · 100 K" in seen.words


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    top = tmp_path / "results"
    whole = _picture(top / "hexa/100K/residuals.png", size=(200, 150))
    for content in (b"no picture", whole.read_bytes()[:500]):
        broken = top / "hexa/100K/transform.png"
        broken.write_bytes(content)
        with pytest.raises(HklflowError, match=r"transform\.png is not a readable picture"):
            _page(top, {"pictures": [whole, broken], "figures": []})
    broken = top / "hexa/100K/transform.json"
    broken.write_text("{")
    with pytest.raises(HklflowError, match=r"transform\.json"):
        _page(top, {"pictures": [], "figures": [broken]})
    old = _figures(top / "hexa/100K/accepted.json", {"accepted": True, "sentences": []})
    with pytest.raises(HklflowError, match=r"accepted\.json has no verdict"):
        _page(top, {"pictures": [], "figures": [old]})
    with pytest.raises(HklflowError, match="scans are 1 and temperatures 2"):
        _page(top, {"pictures": [], "figures": []}, scans=["100K"])


@pytest.mark.slow
def test_pictures_become_smaller_until_they_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [_picture(tmp_path / f"{i}.png", i, (1900, 60)) for i in range(4)]
    widths = []
    for budget in (10**9, 330_000, 120_000, 1):
        monkeypatch.setattr(pictures, "BUDGET", budget)
        packed = pictures.pack(paths)
        widths.append(packed[0].size[0])
        if budget > 1:
            assert sum(len(x.data) for x in packed) <= budget
    assert widths[0] == 1400
    assert widths[-1] == 640
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) >= 3


@pytest.mark.parametrize(
    ("value", "sigma", "text"),
    [
        (1.2342, 0.0051, "1.234(5)"),
        (1.23421, 0.00194, "1.2342(19)"),
        (1.23421, 0.00196, "1.234(2)"),
        (1.23421, 0.0096, "1.234(10)"),
        (139.45, 0.0012, "139.4500(12)"),
        (-0.512, 0.3, "−0.5(3)"),
        (12346.0, 23.0, "12350(20)"),
        (12345.0, 13.0, "12345(13)"),
        (12345.0, 2.0, "12345(2)"),
        (90.0, 0.0, "90"),
        (90.0, None, "90"),
        (4.123456789, None, "4.12346"),
        (float("nan"), 1.0, "–"),
        (None, None, "–"),
    ],
)
def test_notation(value: float | None, sigma: float | None, text: str) -> None:
    assert with_error(value, sigma) == text


@given(
    st.floats(-1e4, 1e4), st.floats(1e-6, 1e3).filter(lambda x: x > 0)
)  # fmt: skip
def test_notation_keeps_value_and_error(value: float, sigma: float) -> None:
    """Read back by its rule: the error counts in units of the last digit."""
    text = with_error(value, sigma).replace("−", "-")
    number, error = re.fullmatch(r"(-?\d+(?:\.\d+)?)\((\d+)\)", text).groups()  # type: ignore[union-attr]
    digits = len(number.partition(".")[2])
    assert float(error) * 10.0**-digits == pytest.approx(sigma, rel=0.26)
    assert abs(float(number) - value) <= 0.5 * sigma + 1e-9


@given(st.floats(0, 0.5), st.floats(4.5, 5.0), st.floats(1e-7, 1e-2))
def test_the_table_of_gates_judges_as_the_gates_do(
    unindexed: float, a: float, relative: float
) -> None:
    accepted = _accepted("100K", unindexed=unindexed, a=a, relative=relative)
    found = page_gates.table(accepted)
    assert all(gate.passed for gate in found) == accepted["accepted"]
    # The last sentence is the proposal, the volume may miss what its axes miss.
    missed = sum(not gate.passed for gate in found)
    assert missed <= max(len(accepted["sentences"]) - 1, 0)


def test_what_is_to_be_copied_is_code() -> None:
    assert prose("set `a: {b: <1>}`, or") == "set <code>a: {b: &lt;1&gt;}</code>, or"
    assert prose("a ` alone") == "a ` alone"


def test_only_markup_is_not_escaped() -> None:
    assert join(["<", [tag("b", "&", class_='"')]]) == '&lt;<b class="&quot;">&amp;</b>'


def test_figures_are_listed_as_they_are_up_to_nine_of_one_name() -> None:
    given = {
        "nine": list(range(9)),
        "ten": list(range(10)),
        "none": [],
        "inner": {"one": 1.5, "tables": [{"a": 1}, {"a": 2}]},
    }
    assert numbers.flat(given) == [
        ("nine", "0, 1, 2, 3, 4, 5, 6, 7, 8"),
        ("ten", "10 values in the file"),
        ("none", "none"),
        ("inner › one", "1.5"),
        ("inner › tables", "2 in the file"),
    ]


def test_threads_change_no_picture(tmp_path: Path) -> None:
    paths = [tmp_path / f"{n}.png" for n in range(5)]
    for n, path in enumerate(paths):
        Image.new("RGB", (90 + n, 60), (40 * n, 90, 10)).save(path)
    assert pictures.pack(paths, threads=3) == pictures.pack(paths)
    assert [picture.size[0] for picture in pictures.pack(paths, threads=3)] == [90, 91, 92, 93, 94]


def test_scans_that_are_merged_have_a_section(tmp_path: Path) -> None:
    top = tmp_path / "results"
    folder = top / "hexa/crystals_all"
    reason = "c2/100K contradicts the other scans & is left out"
    row = {"observations": 1200, "indices": "h, k, l", "delta CC1/2": 0.0012, "significance": -1.5}
    rows = [
        row | {"scan": "c1/100K", "merged": True, "scale": 1.0, "B": 0.0},
        row | {"scan": "c2/100K", "merged": False, "scale": None, "B": None},
    ]
    overall = {"completeness": 0.98, "multiplicity": 7.5, "R_meas": 0.04, "R_pim": 0.01}
    data = {"scans": rows, "overall": overall | {"CC1/2": 0.998}, "warnings": [reason]}
    given = _results(top)
    given["pictures"] += [
        _picture(folder / f"{name}.png") for name in ("scans", "structure_factors")
    ]
    given["figures"].append(_figures(folder / "structure_factors.json", data))
    seen = _Seen(_page(top, given))
    words = seen.words
    assert "Several scans merged" in words
    assert reason in words
    assert "left out" in words
    assert "completeness 98.0%, multiplicity 7.5, R_meas 4.00%, R_pim 1.00%, CC1/2 0.9980" in words
    images = [x for name, x in seen.tags if name == "img"]
    assert len(images) == 3 + 1 + 2 * (11 + 10) + 2 + 2


def test_all_scans_of_all_samples_stand_on_one_screen() -> None:
    rows = [
        {
            "sample": sample, "scan": f"{t}K", "temperature": float(t),
            "verdict": "failed" if t == 60 else "passed", "reasons": ["a < b"] if t == 60 else [],
        }
        for sample in ("a&b", "c")
        for t in range(30, 90, 15)
    ]  # fmt: skip
    rows.append(rows[-1] | {"scan": "odd", "temperature": None, "verdict": "doubtful"})
    seen = _Seen(experiment.render(rows))
    links = [x for name, x in seen.tags if name == "a"]
    assert len(links) == 2 + len(rows)
    assert links[3]["href"] == "../a&b/a&b.html#scan-2"
    assert links[3]["title"] == "60K: failed\na < b"
    words = seen.words.replace("\n", " ")
    assert "2 samples · 9 scans · 6 passed, 1 doubtful, 2 failed" in words
    assert words.count("60K: a < b") == 2
    assert "✗ 60" in words
    assert "? odd" in words
