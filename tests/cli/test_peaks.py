"""`hklflow peaks tune`: what it asks for, what it suggests, and what it writes."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hklflow import geometry, nexus
from hklflow.base.errors import HklflowError
from hklflow.bragg import tune
from hklflow.cli.config_edit import lines_for, with_values
from hklflow.cli.lock import only_one
from hklflow.experiment.config import read_yaml
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.images.scan import RotationScan
from hklflow.simulation.frames import (
    Background,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from tests.truth.orientations import write_orientation

from .conftest import Hklflow

KEYS = ["per_scan", "quartz/100K", "find_peaks"]
VALUES = {"n_sigma": 6.0, "window": 7}

# ---------------------------------------------------------------------- editing the YAML

TEXTS = {
    "nothing": (
        "",
        "per_scan:\n  quartz/100K:\n    find_peaks:\n      n_sigma: 6.0\n      window: 7\n",
    ),
    "only remarks": (
        "# nothing yet\n",
        "# nothing yet\nper_scan:\n  quartz/100K:\n    find_peaks:\n      n_sigma: 6.0\n"
        "      window: 7\n",
    ),
    "no newline at the end": (
        "results: there  # a remark",
        "results: there  # a remark\nper_scan:\n  quartz/100K:\n    find_peaks:\n"
        "      n_sigma: 6.0\n      window: 7\n",
    ),
    "an empty section": (
        "per_scan:  # none yet\nresults: there\n",
        "per_scan:  # none yet\n  quartz/100K:\n    find_peaks:\n      n_sigma: 6.0\n"
        "      window: 7\nresults: there\n",
    ),
    "another scan": (
        "per_scan:\n    # the cold one\n    quartz/20K:\n        find_peaks: {n_sigma: 3}\n\n"
        "merge: {}\n",
        "per_scan:\n    # the cold one\n    quartz/20K:\n        find_peaks: {n_sigma: 3}\n"
        "    quartz/100K:\n      find_peaks:\n        n_sigma: 6.0\n        window: 7\n\n"
        "merge: {}\n",
    ),
    "remarks of an empty section": (
        "per_scan:\n  # sample/scan, and what is different there\n# of all\nmerge: {}\n",
        "per_scan:\n  # sample/scan, and what is different there\n  quartz/100K:\n    find_peaks:\n"
        "      n_sigma: 6.0\n      window: 7\n# of all\nmerge: {}\n",
    ),
    "a text of several lines": (
        "per_scan:\n  a/b:\n    note: |\n      two\n      lines\n# of all\nmerge: {}\n",
        "per_scan:\n  a/b:\n    note: |\n      two\n      lines\n  quartz/100K:\n    find_peaks:\n"
        "      n_sigma: 6.0\n      window: 7\n# of all\nmerge: {}\n",
    ),
    "ends of lines of two systems": (
        "results: there\nmerge: {}\r\ndelta_pdf: []\n",
        "results: there\nmerge: {}\r\ndelta_pdf: []\nper_scan:\n  quartz/100K:\n    find_peaks:\n"
        "      n_sigma: 6.0\n      window: 7\n",
    ),
    "another section of the scan": (
        "per_scan:\n  quartz/100K:\n    mask_3d:\n      reach: 3\n",
        "per_scan:\n  quartz/100K:\n    mask_3d:\n      reach: 3\n    find_peaks:\n"
        "      n_sigma: 6.0\n      window: 7\n",
    ),
    "values that are there": (
        "per_scan:\n  quartz/100K:\n    find_peaks:\n      # by hand\n      n_sigma: 5  # good\n"
        "      min_pixels: 2\n",
        "per_scan:\n  quartz/100K:\n    find_peaks:\n      # by hand\n      n_sigma: 6.0  # good\n"
        "      min_pixels: 2\n      window: 7\n",
    ),
    "names in quotation marks": (
        "per_scan:\n  'quartz/100K':\n    \"find_peaks\":\n      n_sigma: 5\n      window: 3\n",
        "per_scan:\n  'quartz/100K':\n    \"find_peaks\":\n      n_sigma: 6.0\n      window: 7\n",
    ),
    "lines of another system": (
        "results: there\r\nper_scan:\r\n  quartz/100K:\r\n    find_peaks:\r\n      window: 3\r\n",
        "results: there\r\nper_scan:\r\n  quartz/100K:\r\n    find_peaks:\r\n      window: 7\r\n"
        "      n_sigma: 6.0\r\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_values_are_set_as_a_person_would(name: str) -> None:
    before, after = TEXTS[name]
    assert with_values(before, KEYS, VALUES) == after


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("per_scan: {quartz/100K: {find_peaks: {n_sigma: 5}}}\n", "one key in a line"),
        ("per_scan:\n  quartz/100K: {mask_3d: {reach: 3}}\n", "one key in a line"),
        ("per_scan:\n  quartz/100K: &a\n    mask_3d:\n      reach: 3\n", "something else"),
        ("per_scan:\n  quartz/100K:\n    find_peaks:\n      window: [1,\n       2]\n", "'window'"),
        ("per_scan:\n  quartz/100K:\n    find_peaks:\n      window: '3'\n", "'window'"),
        ("per_scan: [1]\n", "one key in a line"),
        ("per_scan: 3\n", "one key in a line"),
        ("{results: there}\n", "one key in a line"),
        ("a: 1\n---\nb: 2\n", "cannot be edited"),
        ("a: [1\n", "cannot be edited"),
        ("per_scan:\n  quartz/100K:\n    find_peaks: null\n", "one key in a line"),
        # Both say the same scan: the new line would go to the wrong one, or to both.
        ("per_scan:\n  x: 1\nper_scan:\n  quartz/100K:\n    find_peaks: {}\n", "one key in a line"),
        # What the scan takes over from another mapping stands elsewhere.
        (
            "base: &b\n  find_peaks:\n    window: 3\n    prominence: 2\nper_scan:\n"
            "  quartz/100K:\n    <<: *b\n",
            "more than these",
        ),
    ],
)
def test_another_form_is_refused(text: str, told: str) -> None:
    with pytest.raises(HklflowError, match=told):
        with_values(text, KEYS, VALUES)


name = st.text("ab/ 1:#'\"é.-", min_size=1, max_size=6)
leaf = st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), name)
PLAIN = re.compile(r"[abé/][ab1é/.-]*")
tree = st.recursive(leaf, lambda inner: st.dictionaries(name, inner, max_size=3), max_leaves=8)


@given(st.dictionaries(name, tree, max_size=4), st.lists(name, min_size=1, max_size=3),
       st.dictionaries(name, leaf, min_size=1, max_size=3), st.booleans())  # fmt: skip
def test_nothing_else_is_ever_changed(
    data: dict[str, object], keys: list[str], values: dict[str, object], block: bool
) -> None:
    text = yaml.safe_dump(data, default_flow_style=None if not block else False, allow_unicode=True)
    text = "# first\n" + ("" if not data else text)
    try:
        changed = with_values(text, keys, values)
    except HklflowError:
        # A section that is there already may be in the way, or words that YAML has a meaning for.
        words = [*keys, *values, *(text for text in values.values() if isinstance(text, str))]
        assert keys[0] in data or not block or not all(map(PLAIN.fullmatch, words))
        return
    wanted: dict[str, object] = yaml.safe_load(text) or {}
    here = wanted
    for key in keys:
        if not isinstance(here.get(key), dict):
            here[key] = {}
        here = here[key]  # type: ignore[assignment]
    here.update(values)
    assert yaml.safe_load(changed) == wanted
    assert changed.startswith("# first\n")


def test_the_lines_to_paste_are_the_values() -> None:
    text = "\n".join(lines_for(KEYS, VALUES))
    assert yaml.safe_load(text) == {"per_scan": {"quartz/100K": {"find_peaks": VALUES}}}


# --------------------------------------------------------------------------- the command


@pytest.fixture
def simulation() -> Simulation:
    """Strong reflections that a threshold of 30 misses, on 100 x 100 pixels."""
    return Simulation(
        DetectorModel((100, 100), 0.12, (51.0, 49.0), (800e-6, 800e-6)),
        GoniometerModel(),
        ScanModel(0.0, np.radians(0.5), 100, 0.5, seed=3),
        CrystalModel(
            (6.75, 6.75, 9.2, 90, 90, 120), (0.4, -0.7, 0.1), scale=0.02, mosaic=0.004,
            spot_sigma=(1.0, 1.0), atoms=((0, 0, 0, 1.0), (0.31, 0.11, 0.13, 0.9)),
        ),
        Diffuse(0.5),
        Background(air=1.0),
    )  # fmt: skip


@pytest.fixture
def measured(folder: Path, hklflow: Hklflow, simulation: Simulation) -> Path:
    """An experiment with a scan whose frames are imported and masked."""
    (folder / "raw").mkdir(exist_ok=True)
    with NXmxWriter(folder / "raw/scan.nxs", NXmxHeader(**simulation.raw_header())) as writer:
        for block in simulation.frames(block=20):
            writer.append(block)
    done = hklflow(
        *("scan", "add", "quartz", "100K", "--rotation", "r1", "--raw", "raw/scan.nxs"),
        *("--temperature", "100", "--parent", "100K", "--directory", folder),
    )
    assert done.code == 0, done.err
    place = folder / "results/quartz/100K/r1"
    place.mkdir(parents=True)
    n, told = simulation.scan.n_frames, simulation.raw_header()
    rotation = geometry.Rotation(
        geometry.Beam(told["wavelength"], told["polarization"]),
        geometry.Detector(
            told["shape"], told["pixel_size"], told["origin"], told["slow"], told["fast"]
        ),
        geometry.Goniometer(
            told["axis_names"], told["axes"], told["angles"], told["scan_axis"]
        ),
        geometry.Scan(told["start"], told["step"], n),
    )  # fmt: skip
    scan = RotationScan(
        "raw/scan.nxs", 0, rotation, np.ones(n), np.ones(n), np.ones(n), "none"
    )  # fmt: skip
    nexus.write_scan(place / "scan.nxs", scan, "scan", None)
    nexus.write_mask(place / "mask.nxs", np.zeros((100, 100), np.uint32))
    write_orientation(place.parent / "orientation.json", {"r1": rotation}, simulation.ub, "P 6")
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search over one parameter."""
    monkeypatch.setattr(tune, "GRID", {"n_sigma": (6.0,)})
    monkeypatch.setattr(tune, "LADDERS", {"n_sigma": (4.0, 6.0, 8.5)})


def bad_start(folder: Path) -> str:
    """Set a threshold that is too high, in a file with remarks."""
    config = folder / "config/config.yaml"
    text = config.read_text() + "\n# Too high.\nfind_peaks:\n  n_sigma: 30  # by hand\n"
    config.write_text(text)
    return text


@pytest.mark.usefixtures("quick")
def test_a_better_setting_is_suggested_and_applied(measured: Path, hklflow: Hklflow) -> None:
    config = measured / "config/config.yaml"
    before = bad_start(measured)
    done = hklflow("peaks", "tune", "quartz/100K", "--directory", measured)
    assert done.code == 0, done.err
    assert config.read_text() == before
    assert "orientation of" in done.out
    assert "searching with the present setting" in done.out
    assert "-0.0 %" not in done.out
    assert "for config/config.yaml (or run again with --apply)" in done.out
    _, _, lines = done.out.partition("--apply):\n\n")
    suggested = yaml.safe_load(lines)
    value = suggested["per_scan"]["quartz/100K"]["find_peaks"]["n_sigma"]
    assert 4 <= value <= 8.5
    place = measured / "results/quartz/100K/peaks_tune"
    assert (place / "tune.png").stat().st_size > 5000
    rows = (place / "tune.tsv").read_text().splitlines()
    assert rows[0].split("\t")[0] == "setting"
    assert {len(row.split("\t")) for row in rows} == {4}

    other = measured / "elsewhere"
    done = hklflow(
        *("peaks", "tune", "quartz/100K/r1", "--apply", "--output", other),
        *("--directory", measured),
    )
    assert done.code == 0, done.err
    assert f"written to {config}" in done.out
    wanted = yaml.safe_load(before)
    of_scan = wanted.setdefault("per_scan", {}).setdefault("quartz/100K", {})
    of_scan.setdefault("find_peaks", {}).update(suggested["per_scan"]["quartz/100K"]["find_peaks"])
    assert read_yaml(config) == wanted
    assert config.read_text().startswith(before)
    assert (other / "tune.png").exists()
    told = hklflow(
        *("config", "explain", "find_peaks.n_sigma", "--sample", "quartz", "--scan", "100K"),
        *("--directory", measured),
    )
    assert f"find_peaks.n_sigma = {value} for quartz/100K" in told.out

    # From there it is to be kept, and nothing is written.
    after = config.read_text()
    done = hklflow("peaks", "tune", "quartz/100K", "--apply", "--directory", measured)
    assert done.code == 0, done.err
    assert "keep what you have" in done.out
    assert config.read_text() == after


@pytest.mark.usefixtures("quick")
def test_the_search_on_a_diagnostic_scan_says_so(measured: Path, hklflow: Hklflow) -> None:
    place = measured / "results/quartz/100K"
    record = {
        "stage": "import_scan",
        "stage_version": 1,
        "version": "0",
        "started": "",
        "inputs": {},
    }
    nexus.write_provenance(place / "r1/scan.nxs", [record | {"diagnostic": "made of straw"}])
    words = ("peaks", "tune", "quartz/100K", "--directory", measured)
    done = hklflow(*words, "--output", measured / "elsewhere")
    assert done.code == 2
    assert f"write it to {measured / 'elsewhere_diagnostic'}" in done.err
    assert not (measured / "elsewhere").exists()
    done = hklflow(*words)
    assert done.code == 0, done.err
    assert "diagnostic: made of straw" in done.out
    rows = (place / "peaks_tune_diagnostic/tune.tsv").read_text().splitlines()
    assert rows[0].endswith("\tquality")
    assert all(row.endswith("\tdiagnostic: made of straw") for row in rows[1:])
    assert b"made of straw" in (place / "peaks_tune_diagnostic/tune.png").read_bytes()


@pytest.mark.usefixtures("quick")
def test_a_form_that_cannot_be_edited_gets_the_lines_to_paste(
    measured: Path, hklflow: Hklflow
) -> None:
    config = measured / "config/config.yaml"
    bad_start(measured)
    text = config.read_text() + "per_scan: {quartz/100K: {mask_3d: {reach: 90}}}\n"
    config.write_text(text)
    done = hklflow("peaks", "tune", "quartz/100K", "--apply", "--directory", measured)
    assert done.code == 2
    assert "was not changed: 'per_scan' is not written with one key in a line" in done.err
    assert "Write into it `per_scan: {quartz/100K: {find_peaks: {" in done.err
    assert config.read_text() == text
    assert not list(config.parent.glob("*.partial"))


@pytest.mark.usefixtures("quick")
def test_one_command_changes_the_file_at_a_time(measured: Path, hklflow: Hklflow) -> None:
    text = bad_start(measured)
    with only_one(measured / "config/.config.lock"):
        done = hklflow("peaks", "tune", "quartz/100K", "--apply", "--directory", measured)
    assert done.code == 2
    assert "another command is changing it" in done.err
    assert (measured / "config/config.yaml").read_text() == text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("known", ["parent", "cell", "nothing"])
def test_the_lattice_is_found_where_it_is_not_known(
    measured: Path, hklflow: Hklflow, simulation: Simulation, known: str
) -> None:
    own = measured / "results/quartz/100K/orientation.json"
    if known == "parent":
        own.rename(own.with_name("parent.json"))
    else:
        own.unlink()
    if known == "cell":
        table = measured / "config/samples.tsv"
        lines = table.read_text().splitlines()
        at = next(k for k, line in enumerate(lines) if line.startswith("sample\t"))
        names = lines[at].split("\t")
        row = dict(zip(names, lines[-1].split("\t"), strict=True))
        row["space_group"] = "P 6"
        row |= {"a": "6.8", "b": "6.8", "c": "9.1", "alpha": "90", "beta": "90", "gamma": "120"}
        lines[-1] = "\t".join(row[n] for n in names)
        table.write_text("\n".join(lines) + "\n")
    bad_start(measured)
    done = hklflow("peaks", "tune", "quartz/100K", "--directory", measured)
    assert done.code == 0, done.err
    told = {"parent": "parent.json", "cell": "the sample's cell", "nothing": "no cell"}
    assert f"{told[known]}\n" in done.out
    assert "per_scan:\n  quartz/100K:" in done.out


def test_a_quick_look_is_not_tuned(measured: Path, hklflow: Hklflow) -> None:
    """What is suggested would be of blocks, and be taken as of pixels."""
    config = measured / "config/config.yaml"
    config.write_text(config.read_text() + "\nbinning: 4\n")
    done = hklflow("peaks", "tune", "quartz/100K", "--directory", measured)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "`binning` is 4 in" in done.err
    assert "set `binning: 1` and run this again" in done.err


def test_what_is_not_there_is_told(measured: Path, hklflow: Hklflow) -> None:
    def error(*words: str) -> str:
        done = hklflow("peaks", "tune", *words, "--directory", measured)
        assert done.code == 2
        return done.err

    assert "there is no scan 'quartz/99K'" in error("quartz/99K")
    assert "the table of scans has quartz/100K" in error("quartz")
    assert "has no rotation 'r2'; it has r1" in error("quartz/100K/r2")
    assert "give --every from 1 to" in error("quartz/100K", "--every", "9")
    (measured / "results/quartz/100K/r1/mask.nxs").unlink()
    told = error("quartz/100K")
    assert "`snakemake --cores 1 results/quartz/100K/r1/mask.nxs`" in told
