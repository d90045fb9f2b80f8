"""Import of vendors' frames: names, angles and geometry from the headers, questions by options."""

import shutil

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Request
from hklflow.beamlines.frames import esperanto, fabio, marccd, raxis, rodhypix, sfrm
from hklflow.beamlines.images import cbf, numbered
from tests.formats import frame_files as files

from .examples import Example, example
from .test_images import write_cbfs

N = 5
PIXELS = np.ones((64, 48), np.int32)


def write_series(folder, write, name, pixels=PIXELS, first=1):
    """Frames of a rotation; `write` takes the path, the pixels and the frame."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(N):
        write(folder / name.format(first + i), pixels, i)


def bruker(path, pixels, i, **more):
    start = 10 + 0.5 * i
    angles = {"START": f"{start}", "ANGLES": f"20.0 {start} 30.0 54.7"}
    ending = {"ENDING": f"20.0 {start + 0.5} 30.0 54.7"}
    files.write_sfrm(path, pixels, **(angles | ending | more))


def rigaku(path, pixels, i):
    start = 10 + 0.5 * i
    fixed = (25.0, 40.0, -70.0)
    files.write_rodhypix(path, pixels, start=(start, *fixed), end=(start + 0.5, *fixed))


def crysalis(path, pixels, i):
    files.write_esperanto(path, pixels, dom_s=10 + 0.5 * i, dom_e=10.5 + 0.5 * i)


def mar(path, pixels, i):
    files.write_marccd(path, pixels, phi=12 + 0.5 * i)


@example("sfrm")
def make_sfrm(folder):
    write_series(folder, bruker, "quartz_100K_r1_{:04d}.sfrm")
    return Example(folder, {("quartz", "100K", "r1")})


@example("rodhypix")
def make_rodhypix(folder):
    write_series(folder, rigaku, "quartz_100K_r1_{}.rodhypix")
    return Example(folder, {("quartz", "100K", "r1")})


@example("esperanto")
def make_esperanto(folder):
    write_series(folder, crysalis, "quartz_100K_r1_{}.esperanto", np.ones((256, 256), np.int32))
    return Example(folder, {("quartz", "100K", "r1")})


@example("marccd")
def make_marccd(folder):
    write_series(folder, mar, "quartz_100K_r1.{:04d}")
    return Example(folder, {("quartz", "100K", "r1")})


@example("raxis")
def make_raxis(folder):
    def write(path, pixels, i):
        files.write_raxis(path, pixels, start=12.0 + i)

    write_series(folder, write, "quartz_100K_r1_{:03d}.osc")
    return Example(folder, {("quartz", "100K", "r1")})


@example("fabio")
def make_fabio(folder):
    write_series(folder, bruker, "quartz_100K_r1_{:04d}.stk")
    return Example(folder, {("quartz", "100K", "r1")}, options={"suffix": ".stk"})


def found(plugin, folder, **options):
    result = plugin.find(Request(folder, options=options))
    assert not result.unmatched, result.unmatched[0].why
    [scan] = result.scans
    return scan


@pytest.mark.parametrize(
    ("plugin", "make", "axis", "start"),
    [
        (sfrm, make_sfrm, "omega", 10.0),
        (rodhypix, make_rodhypix, "omega", 11.5),
        (esperanto, make_esperanto, "omega", 11.5),
        (fabio, make_fabio, "omega", 10.0),
    ],
)
def test_headers_with_directions_are_complete(tmp_path, plugin, make, axis, start):
    made = make(tmp_path / "data")
    scan = found(plugin, made.source, **made.options)
    goniometer = scan.header.goniometer
    assert goniometer.names[goniometer.scan] == axis
    assert (scan.header.start_deg, scan.header.step_deg) == pytest.approx((start, 0.5))
    assert scan.header.n_frames == N
    assert scan.header.detector is not None
    assert not scan.light
    assert not scan.goniometer


@pytest.mark.parametrize(
    ("plugin", "make", "words"),
    [
        (marccd, make_marccd, "omega=0 chi=54 kappa=0 phi=12:0.5"),
        (raxis, make_raxis, "phi=12:1"),
    ],
)
def test_axes_without_directions_are_settings(tmp_path, plugin, make, words):
    made = make(tmp_path / "data")
    scan = found(plugin, made.source, **made.options)
    assert scan.goniometer == words
    assert scan.header.goniometer is None
    assert scan.header.detector is not None
    assert any("import_scan: axes" in note for note in scan.notes)


def test_only_whole_words_say_that_images_are_no_scan(tmp_path):
    """`xtal` is what many call their crystal."""
    for name in ("xtal_100K_r1", "latest_100K_r1", "test_100K_r1"):
        write_series(tmp_path / "data", mar, name + ".{:04d}")
    result = marccd.find(Request(tmp_path / "data"))
    assert {one.sample for one in result.scans} == {"xtal", "latest"}
    [note] = [note for note in result.notes if "--scans NAME" in note]
    assert note.endswith(": test_100K_r1")


def test_a_stated_axis_of_the_arm_is_written_to_a_light_scan_file(tmp_path):
    def on_arm(path, pixels, i):
        files.write_marccd(path, pixels, phi=12 + 0.5 * i, _668=20_000)

    write_series(tmp_path / "data", on_arm, "quartz_100K_r1.{:04d}")
    assert found(marccd, tmp_path / "data").header.detector is None
    scan = found(marccd, tmp_path / "data", arm="-1,0,0")
    assert scan.light
    assert scan.header.detector.normal == pytest.approx(
        [0, np.sin(np.radians(20)), np.cos(np.radians(20))]
    )


def test_directions_that_the_user_states_are_kept(tmp_path):
    def ccd(path, pixels, i):
        angles = {"ANGLES": f"0.0 {10 + 0.5 * i} 30.0 54.7", "START": f"{10 + 0.5 * i}"}
        angles["ENDING"] = f"0.0 {10.5 + 0.5 * i} 30.0 54.7"
        bruker(path, pixels, i, DETTYPE="CCD-PXL 83.33 0.1 0 0.4 0.05 1", **angles)

    write_series(tmp_path / "data", ccd, "x_01_{:04d}.sfrm", np.ones((512, 512), np.int32))
    asked = found(sfrm, tmp_path / "data")
    assert asked.header.detector is None
    assert any("--option image=right,up" in note for note in asked.notes)
    stated = found(sfrm, tmp_path / "data", image="left,down")
    np.testing.assert_allclose(stated.header.detector.fast, [1, 0, 0])
    np.testing.assert_allclose(stated.header.detector.slow, [0, -1, 0])
    # The header of the raw file does not have it: a light scan file does.
    assert stated.light


@pytest.mark.parametrize(
    ("plugin", "options", "told"),
    [
        (sfrm, {"image": "up"}, "image is 'up'; use one of right,up"),
        (sfrm, {"axis": "phi"}, "the headers state the scanned axis"),
        (fabio, {}, "--option suffix=.stk"),
        (fabio, {"suffix": ".xyz"}, ".xyz is no ending of images"),
    ],
)
def test_options_that_make_no_sense(tmp_path, plugin, options, told):
    make_sfrm(tmp_path / "data")
    try:
        why = plugin.find(Request(tmp_path / "data", options=options)).unmatched[0].why
    except HklflowError as error:
        why = str(error)
    assert told in why


def test_a_frame_that_is_missing_is_told(tmp_path):
    make_rodhypix(tmp_path / "data")
    (tmp_path / "data/quartz_100K_r1_3.rodhypix").unlink()
    first, second = rodhypix.find(Request(tmp_path / "data", options={"least": "1"})).scans
    assert "1 of the images are missing: 3" in " ".join(first.notes)
    assert (first.rotation, second.rotation) == ("r1", "r1b")


def test_names_of_series(tmp_path):
    names = ["a_01_0001.sfrm", "a_01_0002.sfrm", "b.0001", "b.0002", "c_1.cbf.gz", "d_1.mar2300"]
    series = {one.pattern: len(one.images) for one in numbered([tmp_path / n for n in names])}
    patterns = ["a_01_####.sfrm", "b.####", "c_#.cbf.gz", "d_#.mar2300"]
    assert series == dict(zip([str(tmp_path / p) for p in patterns], [2, 2, 1, 1], strict=True))


def test_compressed_images_are_found(tmp_path):
    import gzip

    folder = write_cbfs(tmp_path / "data", "quartz_100K_r1")
    for path in folder.glob("*.cbf"):
        with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
            shutil.copyfileobj(plain, packed)
        path.unlink()
    assert found(cbf, folder).raw.endswith(".cbf.gz")
