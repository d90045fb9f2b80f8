"""Import of series of images: CBF headers, TIFF with a text log beside it."""

import bz2
import gzip

import fabio
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Request
from hklflow.beamlines.images import cbf, smv, tiff
from hklflow.beamlines.tree import guess
from hklflow.formats.frame_log import read_log
from hklflow.formats.write_images import write_cbf_series, write_image

from .examples import Example, example

N, SHAPE = 6, (12, 10)
FRAMES = np.ones((N, *SHAPE), np.uint32)


def write_cbfs(folder, prefix, *, start=0.0, step=0.5, motors="", n=N):
    folder.mkdir(parents=True, exist_ok=True)
    paths = write_cbf_series(
        folder,
        prefix,
        [FRAMES[:n]],
        wavelength=0.6,
        distance=0.1,
        beam_centre=(5.0, 6.0),
        pixel_size=(1e-4, 1e-4),
        start=np.radians(start),
        step=np.radians(step),
        exposure=0.1,
        monitor=np.full(n, 7.0),
        pixel_mask=np.zeros(SHAPE),
    )
    for path in paths if motors else []:
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"# Flux", motors.encode() + b"\r\n# Flux", 1))
    return folder


def write_tiffs(folder, prefix, *, n=N, first=1):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + n):
        write_image(folder / f"{prefix}_{number:05d}.tif", FRAMES[0])
    return folder


HEAD = "frame, time (s), phi (deg), chi (deg), monitor, temperature (K), exposure (s)"


def log_lines(n=N, first=1):
    return [
        f"{first + i}, {10 + 0.2 * i:.1f}, {0.5 * i}, 40.0, {1000 + i}, {99.8 + 0.1 * i:.1f}, 0.1"
        for i in range(n)
    ]


def write_log(path, lines, head=HEAD):
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


@example("cbf")
def make_cbf(folder):
    write_cbfs(folder / "quartz", "quartz_100K_r1", motors="# Chi 10.0 deg.")
    write_cbfs(folder / "quartz", "quartz_100K_r2", start=90.0)
    write_cbfs(folder / "quartz", "dark")
    return Example(folder, {("quartz", "100K", "r1"), ("quartz", "100K", "r2")})


@example("tiff")
def make_tiff(folder):
    write_tiffs(folder, "pmn_100K_r1")
    write_tiffs(folder, "snapshot", n=2)
    log = write_log(folder.parent / "log.csv", log_lines())
    return Example(folder, {("pmn", "100K", "r1")}, options={"log": str(log)})


def write_smvs(folder, prefix, *, start=0.0, step=0.5, n=N, **more):
    """As an ADSC detector writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        keys = {
            "HEADER_BYTES": 512, "DIM": 2, "BYTE_ORDER": "little_endian", "TYPE": "unsigned_short",
            "SIZE1": SHAPE[1], "SIZE2": SHAPE[0], "PIXEL_SIZE": 0.1, "DISTANCE": 120.0,
            "BEAM_CENTER_X": 0.45, "BEAM_CENTER_Y": 0.3, "WAVELENGTH": 0.98, "TIME": 2.0,
            "OSC_START": start + i * step, "OSC_RANGE": step, **more,
        }  # fmt: skip
        text = "{\n" + "".join(f"{key}={value};\n" for key, value in keys.items()) + "}\f"
        (folder / f"{prefix}_{i + 1:04d}.img").write_bytes(
            text.ljust(512).encode() + FRAMES[0].astype("<u2").tobytes()
        )
    return folder


@example("smv")
def make_smv(folder):
    write_smvs(folder, "quartz_100K_r1")
    write_smvs(folder, "dark")
    return Example(folder, {("quartz", "100K", "r1")}, options={"axis": "phi"})


@example("edf")
def make_edf(folder):
    folder.mkdir(parents=True)
    for stem, n in (("pmn_100K_r1", N), ("snapshot", 2)):
        for i in range(n):
            image = fabio.edfimage.EdfImage(data=FRAMES[0].astype(np.int32))
            image.write(str(folder / f"{stem}_{i:04d}.edf"))
    log = write_log(folder.parent / "log.csv", log_lines())
    return Example(folder, {("pmn", "100K", "r1")}, options={"log": str(log)})


def test_smv_has_angles_and_no_axis(tmp_path):
    write_smvs(tmp_path / "a", "quartz_100K_r1", start=20.0)
    (one,) = find(tmp_path, smv).scans
    assert (one.header.wavelength, one.header.start_deg, one.header.step_deg) == (0.98, 20.0, 0.5)
    assert one.goniometer == ""
    assert "--option axis=NAME" in " ".join(one.notes)
    (one,) = find(tmp_path, smv, options={"axis": "omega"}).scans
    assert one.goniometer == "omega=20:0.5"


def test_smv_settings_and_fields_that_are_not_used(tmp_path):
    """An axis that rests gets its angle in the table; an axis at 0 may not exist."""
    more = {"AXIS": "phi", "PHI": 20.0, "OMEGA": 30.0, "KAPPA": 0.0, "BEAM_SIZE": "0.1"}
    write_smvs(tmp_path, "quartz_100K_r1", start=20.0, **more)
    for packed in ("", ".gz", ".bz2"):
        for path in sorted(tmp_path.glob("*.img")) if packed else ():
            opened = {".gz": gzip, ".bz2": bz2}[packed].open
            with opened(f"{path}{packed}", "wb") as file:
                file.write(path.read_bytes())
        source = next(iter(sorted(tmp_path.glob(f"*_0001.img{packed}"))))
        result = find(source, smv)
        (one,) = result.scans
        assert one.goniometer == "omega=30 phi=20:0.5"
        assert any("not used: BEAM_SIZE 0.1" in note for note in result.notes)


def test_what_is_left_out_is_taken_by_the_name_that_is_told(tmp_path):
    write_tiffs(tmp_path, "snapshot")
    write_tiffs(tmp_path, "pmn", n=1)
    (tmp_path / "CeO2_Pilatus2M.tif").write_bytes((tmp_path / "pmn_00001.tif").read_bytes())
    found = find(tmp_path, tiff)
    assert not found.scans
    told = [note.rpartition(": ")[2] for note in found.notes]
    assert [set(names.split(", ")) for names in told] == [
        {"snapshot", "CeO2_Pilatus"}, {"pmn (1)"}
    ]  # fmt: skip
    for name in ("snapshot", "CeO2_Pilatus", "pmn"):
        (one,) = find(tmp_path, tiff, scans=frozenset({name})).scans
        assert name in one.where
    (one,) = find(tmp_path, tiff, options={"least": "1"}).scans
    assert one.header.n_frames == 1
    assert "pmn" in one.where


def test_the_unit_of_filters_is_that_of_the_whole_import(tmp_path):
    """0.5 alone may be a half; beside a series with 30 it is half a per cent."""
    for name, value in (("quartz_r1", "0.5"), ("quartz_r2", "30.0")):
        write_cbfs(tmp_path, name, motors=f"# Filter_transmission {value}")
    scans = {scan.rotation: scan for scan in find(tmp_path).scans}
    assert scans["r1"].header.transmission == pytest.approx(0.005)
    assert scans["r1"].light  # a job that reads the series alone cannot know it
    assert scans["r2"].header.transmission == pytest.approx(0.3)
    assert not scans["r2"].light
    assert any("per cent in all" in note for note in find(tmp_path).notes)
    (one,) = find(tmp_path, scans=frozenset({"quartz_r1"})).scans
    assert one.header.transmission == 0.5
    assert any("taken as a fraction" in note for note in one.notes)


def find(source, plugin=cbf, **more):
    return plugin.find(Request(source, **more))


def find_tiff(folder, log, **options):
    return find(folder, tiff, options={"log": str(log), **options})


@pytest.fixture
def tiffs(tmp_path):
    return write_tiffs(tmp_path / "images", "pmn_100K_r1")


def test_series_by_their_names_and_headers(tmp_path):
    make_cbf(tmp_path / "s")
    found = find(tmp_path / "s")
    first, second = found.scans
    assert first.raw == str(tmp_path / "s/quartz/quartz_100K_r1_#####.cbf")
    assert (first.header.start_deg, second.header.start_deg) == (0, pytest.approx(90))
    assert first.header.step_deg == pytest.approx(0.5)
    assert first.header.temperature == 100.0
    assert not first.light
    assert found.notes[0].endswith("--scans NAME includes them: dark")
    assert "guessed from the name quartz_100K_r1: sample quartz, 100 K" in first.notes


@pytest.mark.parametrize(
    ("motors", "options", "expected"),
    [
        ("# Chi 10.0 deg.\r\n# Oscillation_axis omega", {}, "chi=10 omega=0:0.5"),
        ("# Chi 10.0 deg.\r\n# Omega 3 deg.", {"axis": "phi"}, "omega=3 chi=10 phi=0:0.5"),
        ("# Chi 10.0 deg.", {}, ""),
    ],
)
def test_motors_in_headers(tmp_path, motors, options, expected):
    write_cbfs(tmp_path, "a_100K_r1", motors=motors)
    (one,) = find(tmp_path, options=options).scans
    assert one.goniometer == expected
    assert expected or any("does not name the scan axis" in note for note in one.notes)


def test_headers_without_angles(tmp_path):
    write_cbfs(tmp_path, "a_100K_r1", step=0.0)
    (one,) = find(tmp_path).scans
    assert "the headers state no angles of the scan" in one.notes


def test_missing_and_double_numbers(tmp_path):
    write_cbfs(tmp_path, "a_100K_r1")
    write_cbfs(tmp_path, "a_100K_r2")
    (tmp_path / "a_100K_r1_00003.cbf").unlink()
    (tmp_path / "a_100K_r2_3.cbf").write_bytes((tmp_path / "a_100K_r2_00003.cbf").read_bytes())
    found = find(tmp_path, options={"least": "1"})
    first, second = found.scans
    assert (first.rotation, second.rotation) == ("r1", "r1b")
    assert "1 of the images are missing: 3" in " ".join(first.notes)
    assert second.raw.endswith("a_100K_r1_#####[4-6].cbf")
    assert (first.header.n_frames, second.header.n_frames) == (2, 3)
    assert second.header.start_deg == pytest.approx(1.5)
    (twice,) = found.unmatched
    assert "1 numbers occur twice, for example 3" in twice.why
    # With a stated start, the second part would begin at the start of the first.
    found = find(tmp_path, options={"axis": "phi=0:0.5"})
    assert not found.scans
    assert "1 of the images are missing: 3; copy them again" in found.unmatched[0].why


def test_a_log_of_a_series_with_a_missing_image(tiffs, tmp_path):
    next(tiffs.rglob("*_00003.tif")).unlink()
    request = {"log": str(write_log(tmp_path / "log.csv", log_lines())), "least": "1"}
    first, second = tiff.find(Request(tiffs, options=request)).scans
    assert (first.goniometer, second.goniometer) == ("phi=0:0.5 chi=40", "phi=1.5:0.5 chi=40")
    np.testing.assert_allclose(second.header.monitor, [1003, 1004, 1005])


def test_exposures_that_differ_are_those_of_the_frames(tiffs, tmp_path):
    write_cbfs(tmp_path / "cbf", "a_100K_r1")
    for number in (5, 6):
        path = tmp_path / f"cbf/a_100K_r1_{number:05d}.cbf"
        path.write_bytes(path.read_bytes().replace(b"Exposure_time 0.1", b"Exposure_time 0.4"))
    times = [0.1, 0.1, 0.1, 0.1, 0.4, 0.4]
    (one,) = find(tmp_path / "cbf").scans
    np.testing.assert_allclose(one.header.exposure_time, times)
    lines = [line.rsplit(",", 1)[0] + f", {t}" for line, t in zip(log_lines(), times, strict=True)]
    (one,) = find_tiff(tiffs, write_log(tmp_path / "log.csv", lines)).scans
    np.testing.assert_allclose(one.header.exposure_time, times)


def test_few_images_are_no_scan_unless_asked_for(tmp_path):
    write_cbfs(tmp_path, "a_100K_r1")
    write_cbfs(tmp_path, "look", n=3)
    found = find(tmp_path)
    assert len(found.scans) == 1
    assert found.notes[0].endswith("includes them: look (3)")
    assert len(find(tmp_path, options={"least": "3"}).scans) == 2
    assert len(find(tmp_path, scans=frozenset({"look"})).scans) == 1
    with pytest.raises(HklflowError, match="least is 'few'"):
        find(tmp_path, options={"least": "few"})


def test_one_image_stands_for_its_series(tmp_path):
    write_cbfs(tmp_path, "a_100K_r1")
    write_cbfs(tmp_path, "a_100K_r2")
    (one,) = find(tmp_path / "a_100K_r2_00004.cbf").scans
    assert one.rotation == "r2"


def test_a_log_tells_what_tiffs_do_not(tiffs, tmp_path):
    log = write_log(tmp_path / "log.csv", log_lines())
    (one,) = find_tiff(tiffs, log).scans
    assert one.light
    assert one.goniometer == "phi=0:0.5 chi=40"
    header = one.header
    assert (header.start_deg, header.step_deg) == (0.0, pytest.approx(0.5))
    np.testing.assert_allclose(header.monitor, 1000 + np.arange(N))
    assert header.temperature == 100.0  # 100.05 measured, the same for all rows of a scan
    assert header.exposure_time == 0.1
    assert header.wavelength is None  # TIFF headers are not believed
    assert header.detector is None


def test_other_marks_units_and_names(tiffs, tmp_path):
    lines = [
        f"{i}\tpmn_100K_r1_{i + 1:05d}.tif\t{np.radians(0.5 * i)}\t{-173.15}\t{50}\t200"
        for i in reversed(range(N))
    ]
    head = "# index\tfile\tomega [rad]\ttemp (C)\tatten (%)\texposure (ms)"
    log = write_log(tmp_path / "log.txt", lines, head)
    request = Request(tiffs, options={"log": str(log)}, attenuator="atten")
    (one,) = tiff.find(request).scans
    assert one.goniometer == "omega=0:0.5"
    assert one.header.temperature == pytest.approx(100)
    np.testing.assert_allclose(one.header.transmission, 0.5)
    assert one.header.exposure_time == pytest.approx(0.2)


def test_a_log_counted_from_zero(tiffs, tmp_path):
    log = write_log(tmp_path / "log.csv", log_lines(first=0))
    (one,) = find_tiff(tiffs, log).scans
    assert "the log counts from 0, the images from 1: they are matched in their order" in one.notes
    np.testing.assert_allclose(one.header.monitor, 1000 + np.arange(N))


def test_clock_jumps_and_duplicates_are_told(tiffs, tmp_path):
    lines = log_lines()
    lines[3] = lines[3].replace("10.6", "18.6")
    lines.insert(2, lines[1].replace("1001", "9"))
    (one,) = find_tiff(tiffs, write_log(tmp_path / "log.csv", lines)).scans
    told = " ".join(one.notes)
    assert "the clock of the log jumps by 8.2 s after frame 2" in told
    assert "goes back or stops" in told
    assert "1 images are twice in the log (2)" in told
    assert one.header.monitor[1] == 1001


@pytest.mark.parametrize(
    ("lines", "head", "words"),
    [
        (log_lines()[:-1], HEAD, "no line for 1 of 6 images: 6"),
        (log_lines(), HEAD.replace("phi (deg)", "phi"), "column phi has no unit"),
        (log_lines(), HEAD.replace(" (K)", ""), "column temperature has no unit"),
        ([*log_lines(), "7, 8"], HEAD, "line 8: 2 values for 7 columns"),
        (log_lines(), HEAD.replace("time (s)", "frame"), "two columns frame"),
        ([], HEAD, "needs a line of column names"),
        (
            [line.replace("40.0", str(i)) for i, line in enumerate(log_lines())],
            HEAD,
            "phi, chi move during the scan",
        ),
        (
            [line.replace(", 1.5,", ", 1.9,") for line in log_lines()],
            HEAD,
            "phi is not evenly spaced: frame 3",
        ),
    ],
)
def test_logs_that_make_no_sense(tiffs, tmp_path, lines, head, words):
    log = write_log(tmp_path / "log.csv", lines, head)
    found = find_tiff(tiffs, log)
    assert not found.scans
    assert words in found.unmatched[0].why


def test_a_log_without_numbers_is_in_order(tiffs, tmp_path):
    lines = [f"{1000 + i} {0.5 * i}" for i in range(N)]
    log = write_log(tmp_path / "log.txt", lines, "i0 phi(deg)")
    (one,) = find_tiff(tiffs, log).scans
    assert "lines of the log and images are matched in their order" in one.notes
    np.testing.assert_allclose(one.header.monitor, 1000 + np.arange(N))
    short = write_log(tmp_path / "short.txt", lines[:-1], "i0 phi(deg)")
    assert "5 lines for 6 images" in find_tiff(tiffs, short).unmatched[0].why


def test_one_log_for_each_series(tmp_path):
    images = write_tiffs(tmp_path / "images", "pmn_100K_r1")
    write_tiffs(images, "pmn_100K_r2")
    write_log(tmp_path / "pmn_100K_r1.csv", log_lines())
    found = find_tiff(images, f"{tmp_path}/{{series}}.csv")
    assert [one.rotation for one in found.scans] == ["r1"]
    assert "pmn_100K_r2.csv" in found.unmatched[0].why
    with pytest.raises(HklflowError, match="which is not a file"):
        find_tiff(images, tmp_path / "nothing.csv")


def test_tiffs_without_a_log(tiffs):
    (one,) = find(tiffs, tiff).scans
    assert not one.light
    assert one.header.start_deg is None


def test_dates_are_a_clock(tmp_path):
    lines = [f"{i}, 2026-07-01T12:00:0{i}" for i in range(4)]
    log = read_log(write_log(tmp_path / "a.csv", lines, "frame, timestamp"))
    np.testing.assert_allclose(np.diff(log.columns["timestamp"]), 1.0)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("quartz_100K_r1", ("quartz", "100K", "r1", 100.0)),
        ("quartz_12p5K", ("quartz", "12p5K", "", 12.5)),
        ("quartz_b_m5K_2", ("quartz_b", "m5K", "r2", None)),
        ("lyso_1", ("lyso", "", "r1", None)),
        ("lyso", ("lyso", "", "", None)),
        ("100K_f2", ("", "100K", "f2", 100.0)),
    ],
)
def test_guesses(stem, expected):
    found = guess(stem)
    assert (found.sample, found.scan, found.rotation, found.temperature) == expected
