"""`hklflow import`: all of what a plugin found, or nothing; what is there stays as it is.

The plugin here is made up; those of real instruments have tests of their own.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np
import pytest
import yaml

from hklflow import beamlines
from hklflow.base.errors import HklflowError
from hklflow.beamlines import Found, FoundSample, FoundScan, Request, Unmatched
from hklflow.experiment import config
from hklflow.formats.header import Header
from hklflow.formats.models import read_model
from hklflow.formats.raw import open_frames, read_header
from hklflow.geometry import Detector, Goniometer
from tests.patience import PATIENCE

from .conftest import Hklflow

SHAPE = (8, 9)
DETECTOR = Detector(
    SHAPE,
    (1e-4, 1e-4),
    np.array([4.5e-4, 4e-4, 0.1]),
    np.array([0.0, -1.0, 0.0]),
    np.array([-1.0, 0.0, 0.0]),
)
HEADER = Header(
    wavelength=0.5,
    detector=DETECTOR,
    goniometer=Goniometer(("phi",), np.array([[-1.0, 0, 0]]), np.zeros(1), 0),
    start_deg=-5.0,
    step_deg=0.1,
    n_frames=5,
    monitor=np.full(5, 3e4),
    temperature=100.0,
)
UB = 2 * np.pi * np.diag([1 / 4.0, 1 / 5.0, 1 / 6.0])


class Plugin:
    """Finds what it is told."""

    name, summary = "fake", "made up"
    options = MappingProxyType({"log": "a log file"})

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.found = Found()

    def find(self, request: Request) -> Found:
        self.asked.append(request)
        return self.found


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Plugin:
    made = Plugin()
    monkeypatch.setattr(beamlines, "beamline", lambda name: made)
    return made


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two raw files that are not the experiment's."""
    raw = tmp_path / "beamline data"
    raw.mkdir()
    for number in (1, 2):
        with h5py.File(raw / f"f{number}.h5", "w") as file:
            frames = np.full((5, *SHAPE), number, np.uint32)
            file.create_dataset("e/d", data=frames, chunks=(1, *SHAPE))
    return raw


def scan(raw: Path, number: int, **more: object) -> FoundScan:
    file = str(raw / f"f{number}.h5")
    own = FoundScan("ice", "100K", f"r{number}", file, HEADER, SHAPE, datasets=((file, "/e/d"),))
    return replace(own, **more)


def tree(base: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(base)): path.read_bytes()
        for path in base.rglob("*")
        if path.is_file() and not path.name.endswith(".lock")
    }


Import = Callable[..., tuple[int, str, str]]


@pytest.fixture
def imported(folder: Path, raw: Path, hklflow: Hklflow) -> Import:
    def run(*words: str) -> tuple[int, str, str]:
        done = hklflow("import", raw, "--from", "fake", "--directory", folder, *words)
        return done.code, done.out, done.err

    return run


def load(folder: Path) -> config.Experiment:
    return config.load(yaml.safe_load((folder / "config/config.yaml").read_text()), folder)


def test_rows_links_and_a_start(folder: Path, raw: Path, plugin: Plugin, imported: Import) -> None:
    plugin.found = Found(
        (scan(raw, 1, ub=UB, space_group="P 2 2 2", notes=("a guess",)), scan(raw, 2, ub=UB)),
        {"ice": FoundSample("P 2 2 2", (4, 5, 6, 90, 90, 90), "H2O")},
        (Unmatched("scan 3", "no images", ("f2.h5",)),),
        general={"merge": {"pool": 1}},
        settings={"ice/100K": {"import_scan": {"polarization": 0.99, "exposure": 0.1}}},
        notes=("7 scans of other kinds",),
    )
    before = tree(raw)
    code, out, err = imported("--scans", "1-3,x", "--option", "log=a=b", "--saturation", "4e5")
    assert code == 0, err
    for told in ("a guess", "not matched: scan 3: no images", "perhaps f2.h5", "7 scans of other"):
        assert told in out
    request = plugin.asked[0]
    assert request.scans == {"1", "2", "3", "x"}
    assert (request.options, request.facts.saturation) == ({"log": "a=b"}, 4e5)
    experiment = load(folder)
    sample = experiment.samples["ice"]
    assert (sample.space_group, sample.formula) == ("P 2 2 2", "H2O")
    assert sample.cell == (4, 5, 6, 90, 90, 90)
    row = experiment.scans["ice", "100K"]
    assert (row.temperature, list(row.rotations)) == (100, ["r1", "r2"])
    own = experiment.settings("ice", "100K")
    assert (own.merge.pool, own.import_scan.polarization) == (1, 0.99)
    for number in (1, 2):
        light = folder / row.rotations[f"r{number}"].raw
        with open_frames(light) as frames:
            assert frames.shape == (5, *SHAPE)
            assert (frames.read(0, 5) == number).all()
        assert read_header(light).start_deg == pytest.approx(-5)
        # The jobs depend on the frames themselves too.
        assert experiment.linked_inputs(row.rotations[f"r{number}"]) == [str(raw / f"f{number}.h5")]
    start = own.orientation.start
    assert start is not None
    [first, second] = read_model(folder / start)
    assert (first.name, second.name) == ("r1", "r2")
    np.testing.assert_allclose(first.ub, UB)
    assert tree(raw) == before


CIF = """\
data_heavy
_cell_length_a 4.01
_cell_length_b 5.01
_cell_length_c 6.01
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_IT_number 16
_chemical_formula_sum 'D2 O'
"""


def test_new_samples_from_a_cif(
    folder: Path, raw: Path, plugin: Plugin, imported: Import, tmp_path: Path
) -> None:
    cif = tmp_path / "ice.cif"
    cif.write_text(CIF)
    plugin.found = Found((scan(raw, 1),))
    code, out, err = imported("--cif", str(cif))
    assert code == 0, err
    assert "data block heavy: cell 4.01 5.01 6.01 90 90 90, P 2 2 2" in out
    sample = load(folder).samples["ice"]
    assert sample.cell == (4.01, 5.01, 6.01, 90, 90, 90)
    assert (sample.space_group, sample.formula) == ("P 2 2 2", "D2 O")
    cif.write_text(CIF.replace("4.01", "9.99"))
    plugin.found = Found((scan(raw, 2),))
    code, out, err = imported("--cif", str(cif))
    assert code == 0, err
    assert "already in the table of samples, and stays as it is there: ice" in out
    assert load(folder).samples["ice"] == sample


def test_twice_is_once_even_after_a_person_renamed(
    folder: Path, raw: Path, plugin: Plugin, imported: Import
) -> None:
    plugin.found = Found((scan(raw, 1),))
    assert imported()[0] == 0
    once = tree(folder)
    code, out, _ = imported()
    assert code == 0
    assert "1 more are in the table of scans already" in out
    assert tree(folder) == once
    table = folder / "config/scans.tsv"
    table.write_text(table.read_text().replace("\t100K\t", "\tbase\t"))
    renamed = tree(folder)
    assert imported()[0] == 0
    assert tree(folder) == renamed
    plugin.found = Found((scan(raw, 1), scan(raw, 2, scan="50K")))
    assert imported()[0] == 0
    assert set(load(folder).scans) == {("ice", "base"), ("ice", "50K")}


def test_what_a_person_set_stays(folder: Path, raw: Path, plugin: Plugin, imported: Import) -> None:
    path = folder / "config/config.yaml"
    path.write_text(path.read_text() + "import_scan: {polarization: 0.9}\n")
    plugin.found = Found((scan(raw, 1),), general={"import_scan": {"polarization": 0.99}})
    code, out, err = imported()
    assert code == 0, err
    assert "import_scan.polarization is 0.9 and stays (found: 0.99)" in out
    # Another key in this one-line section cannot be put there: told, with the lines to paste.
    plugin.found = Found((scan(raw, 2),), general={"import_scan": {"exposure": 0.1}})
    before = tree(folder)
    code, _, err = imported()
    assert code == 2
    assert "Write into it `import_scan: {exposure: 0.1}`" in err
    assert tree(folder) == before


def test_a_dry_run_writes_nothing(
    folder: Path, raw: Path, plugin: Plugin, imported: Import
) -> None:
    plugin.found = Found((scan(raw, 1, ub=UB),))
    before = tree(folder)
    code, out, _ = imported("--dry-run")
    assert (code, tree(folder)) == (0, before)
    assert "ice 100K r1" in out
    assert "5 frames, phi -5 + 0.1 x n degrees, 100 K, 0.5 Å, monitor, orientation" in out


@pytest.mark.parametrize(
    ("more", "words", "sentence"),
    [
        ({}, ("--space-group", "P 1 9"), "space group"),
        ({}, ("--calibration", "lab"), "there is no calibration 'lab': the configuration defines"),
        ({"scan": "100_K"}, (), "scan '100_K' may only have"),
        ({"parent": "300K"}, (), "parent '300K' is not a scan"),
        ({"datasets": (("/nowhere/f.h5", "/e/d"),)}, (), r"/nowhere/f\.h5.* does not exist"),
    ],
)
def test_all_or_nothing(
    folder: Path,
    raw: Path,
    plugin: Plugin,
    imported: Import,
    more: dict[str, object],
    words: tuple[str, ...],
    sentence: str,
) -> None:
    """The second of two scans is wrong: the first is not there either."""
    plugin.found = Found(
        (scan(raw, 1, ub=UB), scan(raw, 2, **({"scan": "50K"} | more), ub=UB)),
        general={"merge": {"pool": 1}},
    )
    before = tree(folder)
    code, _, err = imported(*words)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert re.search(sentence, err), err
    assert tree(folder) == before


def test_what_a_killed_import_left_is_made_again(
    folder: Path, raw: Path, plugin: Plugin, imported: Import
) -> None:
    left = folder / "raw/ice_100K_r1.scan.nxs"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half")
    plugin.found = Found((scan(raw, 1),))
    assert imported()[0] == 0
    assert read_header(left).n_frames == 5


def test_the_same_names_for_other_frames_are_a_conflict(
    folder: Path, raw: Path, plugin: Plugin, imported: Import
) -> None:
    """Tomorrow's files have the names of today's: they are no repetition."""
    plugin.found = Found((scan(raw, 1),))
    assert imported()[0] == 0
    before = tree(folder)
    plugin.found = Found((scan(raw, 2, rotation="r1", where="f2 of tomorrow"),))
    code, out, err = imported()
    assert code == 2
    assert "not matched: f2 of tomorrow: ice 100K r1 is in the table of scans with other" in out
    assert "1 could not be matched" in err
    # Others are imported all the same.
    plugin.found = Found((*plugin.found.scans, scan(raw, 2, scan="50K")))
    code, out, _ = imported()
    assert code == 2  # the same frames twice: neither is taken
    assert "are also frames of" in out
    assert tree(folder) == before


def test_a_series_is_the_same_by_any_pattern(
    folder: Path, tmp_path: Path, raw: Path, plugin: Plugin, imported: Import
) -> None:
    import fabio

    for i in range(5):
        image = fabio.tifimage.TifImage(data=np.zeros(SHAPE, np.uint16))
        image.write(str(raw / f"a_{i:04d}.tif"))
    one = replace(scan(raw, 1), raw=str(raw / "a_####.tif"), datasets=())
    plugin.found = Found((one,))
    assert imported()[0] == 0
    plugin.found = Found((replace(one, raw=str(raw / "a_*.tif"), scan="other"),))
    code, out, _ = imported()
    assert code == 0
    assert "1 more are in the table of scans already" in out


def test_a_row_behind_a_mark_stays_out(
    folder: Path, raw: Path, plugin: Plugin, imported: Import
) -> None:
    """A `#` in front of the rows of a lost scan is how a person takes it out."""
    plugin.found = Found((scan(raw, 1),))
    assert imported()[0] == 0
    table = folder / "config/scans.tsv"
    table.write_text(table.read_text().replace("\nice", "\n#ice"))
    before = tree(folder)
    code, out, _ = imported()
    assert code == 0
    assert "stays out of the table, where it is ice 100K r1 behind a #" in out
    assert tree(folder) == before


def test_one_more_rotation_leaves_the_start(
    folder: Path, raw: Path, plugin: Plugin, imported: Import
) -> None:
    plugin.found = Found((scan(raw, 1, ub=UB),))
    assert imported()[0] == 0
    start = (folder / "config/orientations/ice_100K.json").read_bytes()
    plugin.found = Found((scan(raw, 1, ub=UB), scan(raw, 2, ub=2 * UB)))
    code, out, err = imported()
    assert code == 0, err
    assert "ice/100K: its start config/orientations/ice_100K.json stays" in out
    assert (folder / "config/orientations/ice_100K.json").read_bytes() == start
    assert list(load(folder).scans["ice", "100K"].rotations) == ["r1", "r2"]


def test_what_was_there_is_there_after_a_failure(
    folder: Path, raw: Path, plugin: Plugin, imported: Import
) -> None:
    """A light file that lies there without a row, and an orientation without a key."""
    plugin.found = Found((scan(raw, 1, ub=UB),))
    assert imported()[0] == 0
    table = folder / "config/scans.tsv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    before = tree(folder)
    code, _, err = imported("--parent", "nosuch")
    assert code == 2
    assert "nosuch" in err
    assert tree(folder) == before


def _header(**more: object) -> dict[str, object]:
    return {"header": replace(HEADER, **more)}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"raw": "data/f1.h5"}, "'data/f1.h5': raw = 'data/f1.h5', which is not an absolute path"),
        ({"raw": 3}, "raw = 3, which is not an absolute path"),
        ({"datasets": (("f1.h5", "/e/d"),)}, "which is not a tuple of (absolute path of a file,"),
        ({"shape": (8,)}, "shape = (8,), which is not (slow, fast) of at most"),
        ({"shape": (10**6, 10**6)}, "shape = (1000000, 1000000), which is not (slow, fast) of"),
        ({"shape": (8.5, 9)}, "shape = (8.5, 9), which is not (slow, fast) of"),
        ({"sample": b"ice"}, "sample = b'ice', which is not text"),
        ({"where": "\ud800"}, "where = '\\ud800', which is not text"),
        ({"notes": "one"}, "notes = 'one', which is not a tuple of items, each text"),
        ({"ub": np.eye(2)}, "which is not a (3, 3) array of finite numbers or"),
        ({"ub": np.full((3, 3), np.nan)}, "which is not a (3, 3) array of finite numbers or None"),
        ({"header": {}}, "header = {}, which is not a Header"),
        (_header(wavelength="0.5 A"), "wavelength = '0.5 A', which is not a number or None"),
        (_header(wavelength="x" * 10**7), "(10000002 characters)"),
        (_header(temperature="cold"), "temperature = 'cold', which is not a number or None"),
        (_header(n_frames=5.0), "n_frames = 5.0, which is not a whole number above 0 or None"),
        (_header(n_frames=-5), "n_frames = -5, which is not a whole number above 0 or None"),
        (_header(monitor="many"), "monitor = 'many', which is not an array of numbers or None"),
        (_header(detector="Eiger"), "detector = 'Eiger', which is not a Detector or None"),
        (
            _header(detector=replace(DETECTOR, pixel_size=("75", "75"))),
            "detector.pixel_size = ('75', '75'), which is not two numbers",
        ),
        (
            _header(goniometer=replace(HEADER.goniometer, scan=1)),
            "goniometer.scan = 1, which is not one of the numbers [0]",
        ),
    ],
)
def test_values_of_a_wrong_type_are_the_plugins(
    folder: Path, raw: Path, plugin: Plugin, imported: Import, wrong: dict[str, object], told: str
) -> None:
    plugin.found = Found((scan(raw, 1), replace(scan(raw, 2), **wrong)))
    before = tree(folder)
    code, _, err = imported()
    assert code == 2, err
    assert err.startswith("hklflow: the plugin of beamline fake gives ")
    assert told in err
    assert len(err) < 500
    assert len(err.strip().splitlines()) == 1
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"scans": ("f1.h5",)}, "scans = ('f1.h5',), which is not a tuple of items, each a"),
        ({"samples": {"ice": "H2O"}}, "which is not a mapping of names to FoundSample"),
        ({"samples": {"ice": FoundSample(cell=(4, 5, 6))}}, "sample ice: cell = (4, 5, 6), which"),
        ({"general": {"merge": 3}}, "general = {'merge': 3}, which is not a mapping of sections"),
        ({"notes": (7,)}, "notes = (7,), which is not a tuple of items, each text"),
        ({"unmatched": (Unmatched("scan 3", 3),)}, "why = 3, which is not text"),
    ],
)
def test_what_is_found_is_of_the_right_types(
    folder: Path, raw: Path, plugin: Plugin, imported: Import, found: dict[str, object], told: str
) -> None:
    plugin.found = replace(Found((scan(raw, 1),)), **found)
    before = tree(folder)
    code, _, err = imported()
    assert code == 2, err
    assert told in err
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"wavelength": np.nan}, "wavelength nan Å is outside the range of X-rays"),
        ({"wavelength": 1e-320}, "wavelength 9.99989e-321 Å is outside"),
        (
            {"polarization": 2},
            "the polarisation is 2, outside 0 to 1: set `import_scan: polarization`",
        ),
        ({"exposure_time": 1e-320}, "exposure time 9.99989e-321 s"),
        ({"temperature": np.inf}, "temperature inf K is outside"),
        ({"saturation": np.nan}, "saturation nan counts is outside"),
        ({"step_deg": np.nan}, "a scan from -5° in steps of nan° is not plausible"),
        ({"detector": replace(DETECTOR, pixel_size=(np.nan, 1e-4))}, "pixel size nan x 0.0001 m"),
    ],
)
def test_numbers_that_no_experiment_has_are_left_out(
    folder: Path, raw: Path, plugin: Plugin, imported: Import, wrong: dict[str, object], told: str
) -> None:
    plugin.found = Found((scan(raw, 1, **_header(**wrong)),))
    code, out, err = imported()
    assert code == 0, err
    assert f"  left out: {told}" in out
    header = read_header(folder / "raw/ice_100K_r1.scan.nxs")
    assert [getattr(header, name) for name in wrong] == [None] * len(wrong)
    assert load(folder).scans["ice", "100K"].temperature in (None, 100)


def test_who_is_asked_is_told_before(
    folder: Path, raw: Path, hklflow: Hklflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a person sees which plugin hangs."""

    def hang(name: str) -> None:
        raise HklflowError("hangs")

    monkeypatch.setattr(beamlines, "beamline", hang)
    done = hklflow("import", raw, "--from", "spec", "--directory", folder)
    told = f"asking beamline spec (hklflow.beamlines.spec:plugin) for the scans of {raw} ..."
    assert (done.out, done.err) == (f"{told}\n", "hklflow: hangs\n")


@pytest.mark.parametrize("name", ["../../evil", "a/b", "", "a b", "a\nb"])
def test_names_are_checked_before_they_are_paths(
    folder: Path, raw: Path, plugin: Plugin, imported: Import, name: str
) -> None:
    for what in ("sample", "scan", "rotation"):
        plugin.found = Found((scan(raw, 1, **{what: name}),))
        before = tree(folder.parent)
        code, _, err = imported()
        assert code == 2
        assert f"{what} {name!r} may only have" in err
        assert tree(folder.parent) == before


ALUMINA = tuple((text, "", "") for text in ("α-Al2O3", "β-Al2O3"))


def test_two_crystals_do_not_get_one_name(
    folder: Path, raw: Path, plugin: Plugin, imported: Import
) -> None:
    alpha, beta = (
        scan(raw, number, sample="Al2O3", original=original, where=f"f{number}.h5")
        for number, original in enumerate(ALUMINA, start=1)
    )
    plugin.found = Found((alpha, beta))
    before = tree(folder)
    code, _, err = imported()
    assert code == 2
    assert "'α-Al2O3' (f1.h5) and 'β-Al2O3' (f2.h5) would all be the sample Al2O3" in err
    assert "`--sample alpha-Al2O3` and `--sample beta-Al2O3`" in err
    assert len(err.strip().splitlines()) == 1
    assert tree(folder) == before
    # One of them is no trouble; nor is the other after it, if the user gives it a name.
    plugin.found = Found((alpha,))
    assert imported()[0] == 0
    plugin.found = Found((alpha, replace(beta, sample="beta", original=("beta", "", ""))))
    code, _, err = imported("--sample", "beta")
    assert code == 0, err
    assert set(load(folder).samples) == {"Al2O3", "beta", "quartz"}


@pytest.mark.parametrize("light", [True, False])
def test_a_sample_of_the_table_is_another_if_its_files_call_it_otherwise(
    folder: Path, raw: Path, plugin: Plugin, imported: Import, light: bool
) -> None:
    alpha, beta = (
        scan(raw, number, sample="Al2O3", original=original, light=light, where=f"f{number}.h5")
        for number, original in enumerate(ALUMINA, start=1)
    )
    if not light:
        with h5py.File(alpha.raw, "r+") as file:
            file["entry/sample/name"] = "α-Al2O3"
    plugin.found = Found((alpha,))
    assert imported()[0] == 0
    before = tree(folder)
    plugin.found = Found((alpha, beta))
    code, _, err = imported()
    assert code == 2
    assert "'β-Al2O3' (f2.h5) and 'α-Al2O3' (" in err
    assert ", in the table of scans) would all be the sample Al2O3" in err
    assert tree(folder) == before
    # What is there already does not stop the command, and the user may say that they are one.
    plugin.found = Found((alpha,))
    assert imported()[0] == 0
    plugin.found = Found((alpha, replace(beta, original=("Al2O3", "", ""))))
    code, _, err = imported("--sample", "Al2O3")
    assert code == 0, err
    assert list(load(folder).scans["Al2O3", "100K"].rotations) == ["r1", "r2"]


def test_a_name_that_a_person_gave_is_not_compared_with_the_raw_file(
    folder: Path, raw: Path, plugin: Plugin, imported: Import
) -> None:
    """The row is of quartz; that its file is called f1 says nothing."""
    row = "quartz\t100K\t100\t\tr1\t{}\t\t\t\t\n".format(raw / "f1.h5")
    table = folder / "config/scans.tsv"
    table.write_text(table.read_text().rstrip("\n") + "\n" + row)
    plugin.found = Found((scan(raw, 2, sample="quartz", original=("quartz", "", "")),))
    code, _, err = imported()
    assert code == 0, err


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("xα", "xβ"), "'xα' (f1) and 'xβ' (f2) would all be the scan ice x"),
        (("x 1", "x_1"), "'x 1' (f1) and 'x_1' (f2) would all be the scan ice x-1"),
    ],
)
def test_two_scans_do_not_get_one_name(
    raw: Path, plugin: Plugin, imported: Import, names: tuple[str, str], told: str
) -> None:
    own = beamlines.name(names[0])
    plugin.found = Found(
        tuple(
            scan(raw, number, scan=own, original=("ice", text, f"r{number}"), where=f"f{number}")
            for number, text in enumerate(names, start=1)
        )
    )
    code, _, err = imported()
    assert code == 2
    assert told in err
    assert "link the files under names that differ, and import the links" in err


def test_two_rotations_do_not_get_one_name(raw: Path, plugin: Plugin, imported: Import) -> None:
    plugin.found = Found(
        (
            scan(raw, 1, rotation="r", original=("ice", "", "r/")),
            scan(raw, 2, rotation="rb", original=("ice", "", "r#")),
        )
    )
    code, _, err = imported()
    assert code == 2
    assert "would all be the rotation ice 100K r, because names have letters" in err


def test_many_of_one_name_are_numbered(raw: Path, plugin: Plugin, imported: Import) -> None:
    plugin.found = Found(
        tuple(
            scan(raw, i, sample="PMN-PT", original=(text, "", ""))
            for i, text in zip((1, 2), ("PMN/PT", "PMN PT"), strict=True)
        )
    )
    code, _, err = imported()
    assert code == 2
    assert "import them one by one: `--sample PMN-PT-1` and `--sample PMN-PT-2` (each" in err


@pytest.mark.parametrize(
    ("what", "cure"), [("sample", "give --sample a short one"), ("scan", "rename the files")]
)
def test_a_name_that_is_too_long_is_not_the_plugins_fault(
    folder: Path, raw: Path, plugin: Plugin, imported: Import, what: str, cure: str
) -> None:
    plugin.found = Found((scan(raw, 1, **{what: 5000 * "a"}),))
    before = tree(folder)
    code, _, err = imported()
    assert code == 2
    assert f"{what} {20 * 'a'}... has 5000 letters; names have 64 at most, because" in err
    assert err.strip().endswith(cure)
    assert "plugin" not in err
    assert len(err) < 500
    assert tree(folder) == before


def test_a_scan_that_cannot_be_written_does_not_stop_the_others(
    folder: Path, raw: Path, plugin: Plugin, imported: Import
) -> None:
    plugin.found = Found((scan(raw, 1, datasets=()), scan(raw, 2)))
    code, out, _ = imported()
    assert code == 0
    assert "does not say where in" in out
    assert list(load(folder).scans["ice", "100K"].rotations) == ["r2"]
    assert [path.name for path in (folder / "raw").iterdir()] == ["ice_100K_r2.scan.nxs"]


def test_many_alike_are_told_in_two_lines(plugin: Plugin, imported: Import) -> None:
    plugin.found = Found(
        unmatched=tuple(
            Unmatched(f"scan {i} (ascan eta)", f"off by {i / 7:g} degrees") for i in range(30)
        )
    )
    _, out, _ = imported()
    lines = [line for line in out.splitlines() if "scan" in line]
    assert lines[0] == "not matched: scan 0 (ascan eta): off by 0 degrees"
    assert lines[1].startswith("  likewise 29 more: scan 1, scan 2")
    assert len(out.splitlines()) <= 4


@pytest.mark.parametrize(
    ("wrong", "told"), [(None, "returned a NoneType, not its scans"), (SystemExit(0), "ended")]
)
def test_a_plugin_that_does_not_behave_is_named(
    plugin: Plugin,
    imported: Import,
    monkeypatch: pytest.MonkeyPatch,
    wrong: object,
    told: str,
) -> None:
    def find(request: Request) -> object:
        if isinstance(wrong, BaseException):
            raise wrong
        return wrong

    monkeypatch.setattr(plugin, "find", find)
    code, _, err = imported()
    assert code == 2
    assert f"the plugin of beamline fake, None, {told}" in err


def test_a_field_that_does_not_exist_is_named(
    plugin: Plugin, imported: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "find", lambda _: Header(wave=0.7))  # type: ignore[call-arg]
    code, _, err = imported()
    assert code == 2
    assert "the plugin of beamline fake, None: Header got an unexpected keyword argument" in err
    assert "'wave'" in err
    assert "docs/beamline_plugin.md" in err
    # Other errors keep their text: they are defects of the plugin.
    monkeypatch.setattr(plugin, "find", lambda _: len(5))  # type: ignore[arg-type]
    _, _, err = imported()
    assert "has no len" in err
    assert "in the plugin of beamline fake, None" in err


def test_what_files_say_does_not_act_on_the_terminal(
    raw: Path, plugin: Plugin, imported: Import
) -> None:
    odd = "\x1b]0;owned\x07\n3 rows added to /etc/passwd"
    plugin.found = Found(
        (scan(raw, 1, where=odd, notes=(odd,)),),
        unmatched=(Unmatched(odd, odd, (odd,)),),
        notes=(odd,),
    )
    code, out, _ = imported()
    assert code == 0
    assert "\x1b" not in out
    assert not [line for line in out.splitlines() if line.startswith("3 rows")]


@pytest.mark.slow
def test_two_imports_at_once(folder: Path, raw: Path, tmp_path: Path) -> None:
    """Whoever comes second finds what the first has done; nobody removes the other's files."""
    import subprocess
    import sys

    program = f"""
import sys
from pathlib import Path
from hklflow import beamlines
from hklflow.cli import main
from tests.cli import test_import as t
raw = Path({str(raw)!r})
plugin = t.Plugin()
plugin.found = t.Found((t.scan(raw, 1, ub=t.UB), t.scan(raw, 2, ub=t.UB)))
beamlines.beamline = lambda name: plugin
main(["import", str(raw), "--from", "fake", "--directory", {str(folder)!r}])
"""
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    told = [run.communicate(timeout=PATIENCE)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert sorted("2 rows added" in text for text in told) == [False, False, True]
    rows = load(folder).scans["ice", "100K"].rotations
    for row in rows.values():
        assert read_header(folder / row.raw).n_frames == 5


def test_found_nothing_is_an_error(plugin: Plugin, imported: Import) -> None:
    plugin.found = Found((), unmatched=(Unmatched("scan 3", "no images"),))
    code, out, err = imported()
    assert code == 2
    assert "not matched: scan 3" in out
    assert "no scan of" in err
    assert "1 could not be matched" in err
    plugin.found = Found()
    assert "can be imported: none was found" in imported()[2]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--option", "lag=x"), "log: a log file"),
        (("--option", "log"), "'log' is not one `name=value`"),
        (("--scans", "9-3"), "'9-3' is not a range"),
        (("--scans", "1,,2"), "empty item"),
    ],
)
def test_words_that_make_no_sense(
    plugin: Plugin, imported: Import, words: tuple[str, ...], sentence: str
) -> None:
    code, _, err = imported(*words)
    assert code == 2
    assert sentence in err
    assert plugin.asked == []


def test_a_beamline_that_is_not_there(folder: Path, raw: Path, hklflow: Hklflow) -> None:
    done = hklflow("import", raw, "--from", "nowhere", "--directory", folder)
    assert done.code == 2
    assert "there is no beamline 'nowhere'; use one of" in done.err
    assert "docs/my_instrument.md" in done.err


def test_names_from_any_text() -> None:
    assert beamlines.name("PMN-PT (011)_2") == "PMN-PT-011-2"
    assert beamlines.scan_name(12.5, "x") == "12.5K"
    assert beamlines.scan_name(None, "S839 a") == "S839-a"
    with pytest.raises(HklflowError, match="no letter or digit"):
        beamlines.name("___")


def test_joined_facts() -> None:
    both = beamlines.joined(Header(wavelength=1.0), Header(wavelength=2.0, n_frames=3))
    assert (both.wavelength, both.n_frames) == (1.0, 3)


def test_the_start_is_readable(folder: Path, raw: Path, plugin: Plugin, imported: Import) -> None:
    """Without a geometry there is no start, and that is told."""
    plugin.found = Found((scan(raw, 1, ub=UB, header=replace(HEADER, detector=None)),))
    code, out, _ = imported()
    assert code == 0
    assert "the orientation is left out" in out
    assert not (folder / "config/orientations").exists()
    plugin.found = Found((scan(raw, 2, scan="50K", ub=UB, where="scan 4 of x.spec"),))
    assert imported()[0] == 0
    start = json.loads((folder / "config/orientations/ice_50K.json").read_text())
    assert start["source"] == "scan 4 of x.spec"
