"""`hklflow model`: orientations shown, exported, imported and compared."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation as Turn

from hklflow import nexus
from hklflow.formats.dials_expt import read_expt, write_expt
from hklflow.formats.dials_refl import read_refl
from hklflow.formats.models import read_model
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice
from hklflow.geometry.model import Model, from_orientation, to_orientation
from hklflow.images.scan import RotationScan
from hklflow.peaks.table import PeakTable

from .conftest import Hklflow

N = 50
FIRST = 7
SHAPE = (100, 120)


def models() -> list[Model]:
    """Two rotations of a hexagonal crystal."""
    detector = Detector(
        SHAPE, (1e-4, 1e-4), np.array([0.006, 0.005, 0.06]), [0, -1, 0.0], [-1, 0, 0.0]
    )
    ub = Turn.from_rotvec([0.5, 1, -0.3]).as_matrix() @ lattice.b_matrix(
        [4.913, 4.913, 5.405, 90, 90, 120]
    )
    found = []
    for name, omega in (("f1", 0.0), ("f2", 0.4)):
        goniometer = Goniometer(("omega", "phi"), [[0, 1, 0], [-1, 0, 0]], [omega, 0.0], 1)
        rotation = Rotation(Beam(0.5, 0.98), detector, goniometer, Scan(0.1, 0.01, N))
        found.append(Model(rotation, ub, "P 32 2 1", name=name))
    return found


def written(folder: Path) -> Path:
    path = folder / "orientation.json"
    path.write_text(json.dumps(to_orientation(models())))
    return path


def scan_files(folder: Path) -> list[Path]:
    """Scan files of both rotations, and raw files that are there."""
    paths = []
    for model in models():
        path = folder / f"{model.name}_scan.nxs"
        ones = np.ones(N)
        (folder / f"{model.name}.h5").touch()
        scan = RotationScan(
            str(folder / f"{model.name}.h5"), FIRST, model.rotation, ones, ones, ones, "none"
        )
        nexus.write_scan(path, replace(scan, saturation=5e4), "title", None)
        paths.append(path)
    return paths


def peak_files(folder: Path) -> list[Path]:
    paths = []
    for model in models():
        rng = np.random.default_rng(1)
        columns = {f.name: np.ones(30) for f in fields(PeakTable) if f.name != "counts"}
        columns |= {name: np.ones(30, np.int64) for name in ("n_pixels", "n_frames", "flags")}
        columns["frame"] = np.sort(rng.uniform(0, N, 30))
        columns["slow"], columns["fast"] = rng.uniform(0, 100, (2, 30))
        path = folder / f"{model.name}_peaks.nxs"
        nexus.write_peaks(path, PeakTable(**columns, counts={"peaks": 30}))
        paths.append(path)
    return paths


def test_show(tmp_path: Path, hklflow: Hklflow) -> None:
    done = hklflow("model", "show", written(tmp_path))
    assert done.code == 0, done.err
    lines = [line.split() for line in done.out.splitlines() if line]
    assert ["rotation", "f2"] in lines
    cell = next(line for line in lines if line[0] == "cell")
    assert [float(x) for x in cell[-6:]] == [4.913, 4.913, 5.405, 90, 90, 120]
    assert ["axis", "omega", "0.000000", "1.000000", "0.000000", "22.91831", "degrees"] in lines
    assert ["beam", "at", "(slow,", "fast)", "50.000", "60.000"] in lines
    assert any(line[:2] == ["distance", "/"] and line[-1] == "60.00000" for line in lines)


def test_export_to_dials_with_images_and_reflections(tmp_path: Path, hklflow: Hklflow) -> None:
    source = written(tmp_path)
    output = tmp_path / "out.expt"
    done = hklflow(
        *("model", "export", source, "--to", "dials", "-o", output),
        *("--scans", *scan_files(tmp_path), "--peaks", *peak_files(tmp_path)),
    )
    assert done.code == 0, done.err
    back = read_expt(output)
    assert [Path(str(m.raw)).name for m in back] == ["f1.h5", "f2.h5"]
    assert [m.first_image for m in back] == [FIRST + 1] * 2
    assert back[0].trusted_range == (0.0, 5e4)
    content = json.loads(output.read_text())
    assert content["imageset"][0]["single_file_indices"] == list(range(FIRST, FIRST + N))
    refl = read_refl(output.with_suffix(".refl"))
    assert refl.nrows == 60
    names = [one["identifier"] for one in content["experiment"]]
    assert refl.identifiers == dict(enumerate(names))
    indexed = refl.columns["flags"] & 4 != 0
    assert 0 < indexed.sum() < 60
    for number, model in enumerate(models()):
        rows = refl.columns["id"] == number
        fast, slow, z = refl.columns["xyzobs.px.value"][rows].T
        hkl = model.rotation.hkl(model.ub, z - FIRST, slow, fast)
        near = np.abs(hkl - np.rint(hkl)).max(axis=1) < 0.2
        np.testing.assert_array_equal(near, indexed[rows])
        np.testing.assert_array_equal(refl.columns["miller_index"][rows][near], np.rint(hkl)[near])


def test_export_refuses_images_that_are_not_there(
    tmp_path: Path, hklflow: Hklflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scan files name the images from the experiment's folder, which need not be this one."""
    base, output = tmp_path / "experiment", tmp_path / "a.expt"
    (base / "config").mkdir(parents=True)
    (base / "raw").mkdir()
    source, scans = written(base), scan_files(base)
    for path in scans:
        scan = nexus.read_scan(path)
        name = f"raw/{Path(scan.raw).name}"
        Path(scan.raw).rename(base / name)
        nexus.write_scan(path, replace(scan, raw=name), "title", None)
    words = ("model", "export", source, "--to", "dials", "-o", output, "--scans", *scans)
    monkeypatch.chdir(tmp_path)
    done = hklflow(*words)
    assert done.code == 2
    assert f"run this in {base}" in done.err
    assert not output.exists()
    monkeypatch.chdir(base)
    done = hklflow(*words)
    assert done.code == 0, done.err
    assert read_expt(output)[0].raw == str(base / "raw/f1.h5")


def test_control_characters_of_files_are_not_printed(tmp_path: Path, hklflow: Hklflow) -> None:
    data = to_orientation(models())
    data["rotations"] = {"f\x1b[2J": data["rotations"]["f1"]}
    source = tmp_path / "o.json"
    source.write_text(json.dumps(data))
    done = hklflow("model", "show", source)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    assert r"f\x1b[2J" in done.out
    data["rotations"]["f\x1b[2J"]["scan"]["n_frames"] = 0
    source.write_text(json.dumps(data))
    done = hklflow("model", "show", source)
    assert done.code == 2
    assert "\x1b" not in done.err


def test_export_to_xds_and_nxrefine(tmp_path: Path, hklflow: Hklflow) -> None:
    source = written(tmp_path)
    done = hklflow("model", "export", source, "--to", "xds", "-o", tmp_path / "XPARM.XDS")
    assert done.code == 0, done.err
    assert "one axis" in done.out
    done = hklflow("model", "export", source, "--to", "nxrefine", "-o", tmp_path / "q.nxs")
    assert done.code == 0, done.err
    for name in ("XPARM_f1.XDS", "q.nxs"):
        compared = hklflow("model", "compare", source, tmp_path / name)
        assert compared.code == 0, compared.err
        row = next(line for line in compared.out.splitlines() if line.startswith("f1 "))
        assert float(row.split("\t")[1]) < 1e-6
        assert row.split("\t")[2] == "same"
    assert sorted(p.name for p in tmp_path.glob("*.XDS")) == ["XPARM_f1.XDS", "XPARM_f2.XDS"]


def test_export_overwrites_only_by_force(tmp_path: Path, hklflow: Hklflow) -> None:
    source, output = written(tmp_path), tmp_path / "a.expt"
    output.write_text("kept")
    words = ("model", "export", source, "--to", "dials", "-o", output)
    done = hklflow(*words)
    assert done.code == 2
    assert "--force" in done.err
    assert output.read_text() == "kept"
    assert hklflow(*words, "--force").code == 0
    assert len(read_expt(output)) == 2
    assert not list(tmp_path.glob(".*partial*"))


def test_failed_export_leaves_nothing(tmp_path: Path, hklflow: Hklflow) -> None:
    """The second file of two cannot be made: the first is not there either."""
    source = tmp_path / "orientation.json"
    data = to_orientation(models())
    data["rotations"]["f2"]["detector"]["pixel_size_m"] = [1e-4, 1.2e-4]
    source.write_text(json.dumps(data))
    done = hklflow("model", "export", source, "--to", "nxrefine", "-o", tmp_path / "a.nxs")
    assert done.code == 2
    assert "square" in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["orientation.json"]


def test_import_for_our_scans(tmp_path: Path, hklflow: Hklflow) -> None:
    """Of a DIALS that counted more frames, with U in another frame of the head."""
    theirs = []
    for model in models():
        scan = Scan(0.1 - 0.01 * FIRST, 0.01, N + FIRST)
        theirs.append(replace(model, rotation=replace(model.rotation, scan=scan)))
    write_expt(tmp_path / "refined.expt", theirs)
    output = tmp_path / "start.json"
    done = hklflow(
        *("model", "import", tmp_path / "refined.expt", "--scans", *scan_files(tmp_path)),
        *("-o", output),
    )
    assert done.code == 0, done.err
    back = from_orientation(json.loads(output.read_text()))
    for model, read in zip(models(), back, strict=True):
        np.testing.assert_allclose(read.ub, model.ub, atol=1e-9)
        assert read.rotation.scan.start == pytest.approx(model.rotation.scan.start, rel=1e-12)
        assert read.rotation.scan.n_frames == N
        assert read.rotation.goniometer.names == ("omega", "phi")
    assert read_model(output)[0].space_group == "P 32 2 1"


def test_import_refuses_another_geometry(tmp_path: Path, hklflow: Hklflow) -> None:
    backwards = [
        replace(m, rotation=replace(m.rotation, scan=Scan(0.1, -0.02, N))) for m in models()
    ]
    write_expt(tmp_path / "a.expt", backwards)
    words = ("model", "import", tmp_path / "a.expt", "-o", tmp_path / "start.json", "--scans")
    done = hklflow(*words, *scan_files(tmp_path))
    assert done.code == 2
    assert "another geometry" in done.err
    assert not (tmp_path / "start.json").exists()
    done = hklflow(*words, scan_files(tmp_path)[0])
    assert done.code == 2
    assert "1 scan files for the rotations f1, f2" in done.err


def test_compare_tells_reindexing(tmp_path: Path, hklflow: Hklflow) -> None:
    """Quartz: the two-fold axis along c is the lattice's, not the crystal's."""
    source = written(tmp_path)
    turned = [replace(m, ub=np.asarray(m.ub) @ np.diag([-1.0, -1, 1])) for m in models()]
    (tmp_path / "b.json").write_text(json.dumps(to_orientation(turned)))
    done = hklflow("model", "compare", source, tmp_path / "b.json")
    assert done.code == 0, done.err
    assert "reindexed" in done.out
    assert "hkl of the first" in done.out
    done = hklflow("model", "compare", source, tmp_path / "b.json", "--space-group", "P 6 2 2")
    assert "equivalent" in done.out
    done = hklflow("model", "compare", source, tmp_path / "b.json", "--space-group", "F m -3 m")
    assert done.code == 2
    assert "do not describe the same lattice" in done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("show", "absent.expt"), "does not exist"),
        (("show", "text"), "not an orientation file that hklflow can read"),
        (("show", "broken.json"), "not JSON"),
        (("show", "other.json"), "other.json: this is not an orientation of hklflow"),
        (("export", "o.json", "--to", "dials", "-o", "a.json"), "end it in .expt"),
        (("export", "o.json", "--to", "dials", "-o", "no/a.expt"), "does not exist"),
        (("export", "o.json", "--to", "xds", "-o", "X", "--peaks", "p"), "--to dials"),
        (("export", "o.json", "--to", "dials", "-o", "a.expt", "--peaks", "p"), "1 peak tables"),
        (("export", "o.json", "--to", "shelx", "-o", "X"), "shelx"),
    ],
)
def test_refuses(
    tmp_path: Path,
    hklflow: Hklflow,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path).rename("o.json")
    Path("text").write_text("something else")
    Path("broken.json").write_text('{"UB": [[')
    Path("other.json").write_text('{"a": 1}')
    before = sorted(tmp_path.iterdir())
    done = hklflow("model", *words)
    assert done.code == 2
    assert told in done.err
    assert len(done.err.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_scan_files_in_another_order_are_refused(tmp_path: Path, hklflow: Hklflow) -> None:
    data = to_orientation(models())
    data["rotations"]["f2"]["scan"]["n_frames"] = N - 1
    source = tmp_path / "o.json"
    source.write_text(json.dumps(data))
    done = hklflow(
        *("model", "export", source, "--to", "dials", "-o", tmp_path / "a.expt"),
        *("--scans", *scan_files(tmp_path)),
    )
    assert done.code == 2
    assert "in the order of the rotations" in done.err


def test_image_series_become_templates(tmp_path: Path, hklflow: Hklflow) -> None:
    for number in range(3, 3 + FIRST + N):
        (tmp_path / f"q_run2_{number:04d}.cbf").touch()
    scans = scan_files(tmp_path)
    for path in scans:
        pattern = str(tmp_path / "q_run2_*.cbf")
        nexus.write_scan(path, replace(nexus.read_scan(path), raw=pattern), "title", None)
    done = hklflow(
        *("model", "export", written(tmp_path), "--to", "dials", "-o", tmp_path / "a.expt"),
        *("--scans", *scans),
    )
    assert done.code == 0, done.err
    # Numbers of the images, not of the frames in their order, tell where a scan begins.
    done = hklflow(
        *("model", "import", tmp_path / "a.expt", "-o", tmp_path / "b.json", "--scans", *scans)
    )
    assert done.code == 0, done.err
    np.testing.assert_allclose(read_model(tmp_path / "b.json")[0].ub, models()[0].ub, atol=1e-9)
    model = read_expt(tmp_path / "a.expt")[0]
    assert Path(str(model.raw)).name == "q_run2_####.cbf"
    assert model.first_image == 3 + FIRST
