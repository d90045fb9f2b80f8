"""The page, the overview and `hklflow status` show one verdict on a scan, of all its stages."""

import csv
import json
import re
from html import unescape
from pathlib import Path

import pytest

from hklflow import stage
from hklflow.stages import accept, overview, sample_page
from tests.truth import worlds
from tests.truth.world_scans import answered

from . import test_status
from .conftest import Hklflow

base = test_status.base
hollow = test_status.hollow

HOLE = "transform: a hole"
WORLDS = {"300K": ("slip", "monoclinic", 61, 0.03), "100K": ("second_lattice", "cubic", 21, 0.3)}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parent that slipped a little, and a scan with a second crystal: a folder for each."""
    base = tmp_path_factory.mktemp("worlds")
    for scan, (kind, system, seed, size) in WORLDS.items():
        folder = base / scan
        assert not answered(worlds.world(kind, system, seed, size), folder).refusal
        accept.main(
            inputs=accept.Inputs(orientation=folder / "parent.json", parent=folder / "parent.json"),
            outputs=accept.Outputs(accepted=folder / "accepted.json"),
            params=accept.Params(on_failure="warn"),
        )
    return base


@pytest.fixture
def results(base: Path, judged: Path) -> Path:
    """An experiment with these two scans."""
    top = base / "results"
    for scan in WORLDS:
        for made, name in (("parent", "orientation"), ("accepted", "accepted")):
            content = (judged / scan / f"{made}.json").read_text()
            (top / "hexa" / scan / f"{name}.json").write_text(content)
        metrics = {"coverage": 0.5, "rotations' reduced chi2": None, "warnings": ["a hole"]}
        (top / "hexa" / scan / "transform.json").write_text(json.dumps(metrics))
    return top


def test_all_show_the_same_verdict(results: Path, hklflow: Hklflow) -> None:
    verdicts = {s: stage.read_json(results / "hexa" / s / "accepted.json") for s in WORLDS}
    assert [verdicts[s]["verdict"] for s in WORLDS] == ["doubtful", "failed"]
    (slip,), (crystal,) = verdicts["300K"]["doubts"], verdicts["100K"]["sentences"]
    assert "the crystal slipped by 0.03" in slip
    assert "second crystal" in crystal

    out = hklflow("status", results.parent).out
    assert "\nverdicts: 1 doubtful, 1 failed\n" in out
    more = " (and 1 more on the page of hexa)"
    assert f"\nfailed  hexa 100K: {crystal}{more}\ndoubtful  hexa 300K: {slip}{more}\n" in out
    only = hklflow("status", results.parent, "--failed").out
    assert crystal in only
    assert slip not in only
    told = json.loads(hklflow("status", results.parent, "--json").out)["verdicts"]
    assert {x["scan"]: (x["verdict"], x["reasons"]) for x in told} == {
        "300K": ("doubtful", [slip, HOLE]),
        "100K": ("failed", [crystal, HOLE]),
    }

    def of(name: str) -> list[Path]:
        return [results / "hexa" / scan / f"{name}.json" for scan in WORLDS]

    overview.main(
        inputs=overview.Inputs(
            orientations=of("orientation"),
            metrics=of("transform"),
            accepted=of("accepted"),
            figures=[*of("orientation"), *of("transform"), *of("accepted")],
        ),
        outputs=overview.Outputs(
            table=results / "s.tsv", page=results / "s.html", series=results / "s.png"
        ),
        params=overview.Params(),
    )
    with (results / "s.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert sorted((row["verdict"], row["reasons"]) for row in rows) == [
        ("doubtful", f"{slip} | {HOLE}"),
        ("failed", f"{crystal} | {HOLE}"),
    ]
    assert not any(slip in row["warnings"] or crystal in row["warnings"] for row in rows)

    sample_page.main(
        inputs=sample_page.Inputs(
            pictures=[], figures=[*of("orientation"), *of("transform"), *of("accepted")]
        ),
        outputs=sample_page.Outputs(
            page=results / "p.html", small=results / "q.html", statement=results / "findings.md"
        ),
        params=sample_page.Params(
            sample="hexa", results=str(results), scans=["100K", "300K"], temperatures=[100, 300]
        ),
    )
    page = re.sub("</?code>", "`", unescape((results / "p.html").read_text()))
    for scan, reason, badge, box in (
        ("100K", crystal, '<span class="badge bad">✗ failed</span>', "alarm"),
        ("300K", slip, '<span class="badge warn">? doubtful</span>', "alarm mild"),
    ):
        assert page.count(f'<div class="{box}"><p><b>{scan}: </b>{reason}</p>') == 1
        assert page.count(reason) == 1
        # In the first line, in two tables and in the head of the scan's own part.
        assert page.count(badge) == 4
    assert page.count(HOLE.removeprefix("transform: ")) == 1


@pytest.mark.parametrize(("key", "level"), [("warnings", "doubtful"), ("failures", "failed")])
def test_any_stage_makes_a_scan_doubtful_or_failed(
    base: Path, hklflow: Hklflow, key: str, level: str
) -> None:
    """A rotation's stage, and one of the scan; a sentence of two stages stands once."""
    own = base / "results/hexa/300K"
    accepted = {"verdict": "passed", "sentences": [], "doubts": []}
    (own / "accepted.json").write_text(json.dumps(accepted))
    (own / "r1").mkdir(exist_ok=True)
    (own / "r1/scale.json").write_text(json.dumps({key: ["too dark"]}))
    for name in ("symm_transform", "filled_transform"):
        (own / f"{name}.json").write_text(json.dumps({key: ["no mirror"]}))
    orientation = json.dumps({"warnings": ["a note"]})
    (own / "orientation.json").write_text(orientation)
    told = json.loads(hklflow("status", base, "--json").out)["verdicts"]
    (found,) = [(x["verdict"], x["reasons"]) for x in told if x["scan"] == "300K"]
    assert found == (level, ["r1, scale: too dark", "symm_transform: no mirror"])


def test_a_scan_that_was_stopped_counts_as_failed(results: Path, hklflow: Hklflow) -> None:
    """It leaves no file: its sentence is that of the failed job, and stands once."""
    (results / "hexa/100K/accepted.json").unlink()
    log = results / "logs/accept/hexa_100K.log"
    test_status.write(log, "hklflow accept: a second crystal\n", test_status.START + 2000)
    out = hklflow("status", results.parent).out
    assert "verdicts: 1 doubtful, 1 failed\n" in out
    assert out.count("a second crystal") == 1
    assert "fail  hexa 100K accept: a second crystal" in out


def test_files_without_a_verdict_are_not_counted(results: Path, hklflow: Hklflow) -> None:
    """Those of an older version."""
    path = results / "hexa/300K/accepted.json"
    data = stage.read_json(path)
    del data["verdict"]
    path.write_text(json.dumps(data))
    done = hklflow("status", results.parent)
    assert done.code == 0
    assert "verdicts: 1 failed\n" in done.out
