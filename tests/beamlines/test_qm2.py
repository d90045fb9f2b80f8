"""Import from QM2 of CHESS: the folders and columns that NXRefine's plugin for QM2 describes."""

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.beamlines import Request
from hklflow.beamlines.qm2 import plugin
from hklflow.formats.write_images import write_image

from .examples import Example, example

N = 12
HEAD = """#F FeTe2
#E 1624649179
#D Fri Jun 25 14:26:19 2021

#O0 th  chi  phi  mu

"""


def scan_text(number, points=N, chi=70.0, monitor=None, temperature=99.7, step=0.1):
    monitor = np.full(points, 5e4) if monitor is None else monitor
    lines = [
        f"#S {number}  flyscan phi 10 20 {points} 0.1",
        "#D Sat Jun 26 13:49:06 2021",
        f"#P0 5 {chi} 10 0",
        "#N 5",
        "#L phi  Epoch  Seconds  flyc1  sampleT",
    ]
    for i in range(points):
        lines.append(f"{10 + step * i:.4f} {1000 + i} 0.1 {monitor[i]} {temperature}")
    return "\n".join(lines) + "\n\n"


def write_stack(top, number, n=N, temperature="100", label="xtal1", sample="FeTe2"):
    folder = top / f"raw6M/{sample}/{label}/{temperature}/{sample}_{number:03d}"
    folder.mkdir(parents=True)
    for i in range(n):
        write_image(folder / f"{sample}_PIL10_{number:03d}_{i:05d}.tif", np.full((8, 9), i))
    return folder


def write_spec(top, *texts):
    top.mkdir(parents=True, exist_ok=True)
    (top / "FeTe2").write_text(HEAD + "".join(texts))
    return top / "FeTe2"


@example("qm2")
def make_qm2(folder):
    write_stack(folder, 46)
    return Example(write_spec(folder, scan_text(46)), {("FeTe2-xtal1", "100K", "s46")})


def found(source, **options):
    result = plugin.find(Request(source, options=options))
    assert not result.unmatched, result.unmatched[0].why
    return result.scans


def test_stacks_and_their_scans(tmp_path):
    """Scan 10 too, although all names have PIL10; scans without images are no rotations."""
    for number, temperature in ((10, "100"), (11, "100"), (12, "300")):
        write_stack(tmp_path, number, temperature=temperature)
    texts = [scan_text(n, chi=90 - n) for n in (10, 11)]
    source = write_spec(tmp_path, *texts, scan_text(12, temperature=300.2), scan_text(13))
    scans = found(source)
    assert [(s.sample, s.scan, s.rotation) for s in scans] == [
        ("FeTe2-xtal1", "100K", "s10"),
        ("FeTe2-xtal1", "100K", "s11"),
        ("FeTe2-xtal1", "300K", "s12"),
    ]
    header = scans[1].header
    # As in NXRefine, the column has the middle of each frame.
    assert (header.start_deg, header.step_deg) == pytest.approx((9.95, 0.1))
    assert header.exposure_time == pytest.approx(0.1)
    assert header.temperature == 100
    # NXRefine: theta is th, chi is 90 degrees less chi of SPEC.
    goniometer = header.goniometer
    assert goniometer.names == ("theta", "omega", "chi", "phi")
    np.testing.assert_allclose(np.degrees(goniometer.angles)[:3], [5, 0, 11])
    assert goniometer.names[goniometer.scan] == "phi"


def test_outliers_at_the_ends_of_the_monitor(tmp_path):
    monitor = 5e4 + np.arange(N)
    monitor[[0, 1, -1]] = 10, 2e4, 9e4
    write_stack(tmp_path, 46)
    [scan] = found(write_spec(tmp_path, scan_text(46, monitor=monitor)))
    expected = 5e4 + np.arange(N)
    expected[:2], expected[-2:] = expected[2], expected[-3]
    np.testing.assert_array_equal(scan.header.monitor, expected)
    assert sum("outliers" in note for note in scan.notes) == 2


def test_steady_ends_are_kept(tmp_path):
    monitor = 5e4 + 10.0 * np.arange(N)
    write_stack(tmp_path, 46)
    [scan] = found(write_spec(tmp_path, scan_text(46, monitor=monitor)))
    np.testing.assert_array_equal(scan.header.monitor, monitor)


def test_more_points_than_images_and_fewer(tmp_path):
    write_stack(tmp_path, 46, n=N - 1)
    [scan] = found(write_spec(tmp_path, scan_text(46)))
    assert scan.header.n_frames == N - 1
    assert "the first 11 are used" in " ".join(scan.notes)
    write_spec(tmp_path, scan_text(46, points=N - 3))
    [lost] = plugin.find(Request(tmp_path / "FeTe2")).unmatched
    assert "has 9 points for 11 images" in lost.why


def test_crystals_are_chosen_by_their_label(tmp_path):
    write_stack(tmp_path, 46, label="a")
    write_stack(tmp_path, 47, label="b")
    source = write_spec(tmp_path, scan_text(46), scan_text(47))
    assert [s.sample for s in found(source)] == ["FeTe2-a", "FeTe2-b"]
    assert [s.sample for s in found(source, label="b")] == ["FeTe2-b"]


def test_what_does_not_fit_says_why(tmp_path):
    write_stack(tmp_path, 46)
    source = write_spec(tmp_path, scan_text(45))
    [lost] = plugin.find(Request(source)).unmatched
    assert "no readable scan 46" in lost.why
    with pytest.raises(HklflowError, match="enter the SPEC file"):
        plugin.find(Request(tmp_path))
    other = write_spec(tmp_path / "empty", scan_text(45))
    with pytest.raises(HklflowError, match="--raw FOLDER"):
        plugin.find(Request(other))
