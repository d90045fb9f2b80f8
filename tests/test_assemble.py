"""What tables, calibration and raw file say, put together: precedence, and what is missing."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.formats import assemble
from hklflow.formats.assemble import Said
from hklflow.formats.header import Header
from hklflow.geometry import Beam, Detector, Goniometer
from hklflow.images.scan import RotationScan

SHAPE = (10, 20, 30)
RAW = "raw/a.nxs"


def _detector(distance: float) -> Detector:
    return Detector(
        SHAPE[1:],
        (1e-4, 1e-4),
        np.array([0.001, 0.002, distance]),
        np.array([0.0, -1.0, 0.0]),
        np.array([-1.0, 0.0, 0.0]),
    )


HEADER = Header(
    wavelength=1.0,
    detector=_detector(0.1),
    goniometer=Goniometer(
        ("omega", "chi", "phi"),
        np.array([[-1.0, 0, 0], [0, 0, 1], [-1, 0, 0]]),
        np.radians([11.0, 22.0, 33.0]),
        2,
    ),
    start_deg=33.0,
    step_deg=0.1,
    n_frames=10,
    exposure_time=0.2,
    monitor=np.arange(10) + 100.0,
    transmission=0.5,
    temperature=290.0,
    saturation=1e6,
    polarization=0.9,
)
EMPTY = Header(detector=_detector(0.1))


def _turned(degrees: float) -> Goniometer:
    """Goniometer of the header with chi at an angle."""
    goniometer = HEADER.goniometer
    assert goniometer is not None
    with np.errstate(all="ignore"):
        return replace(goniometer, angles=np.radians([11.0, degrees, 33.0]))


FULL = Said(
    wavelength=2.0,
    polarization=0.8,
    axes={"kappa": (0.0, 0.0, 2.0), "phi": (1.0, 0.0, 0.0)},
    angles={"kappa": -50.0},
    scan_axis="phi",
    start=-180.0,
    step=-0.25,
    monitor="none",
    exposure=3.0,
    attenuation=0.25,
    temperature=100.0,
)


def _scan(header: Header = HEADER, **said: Any) -> RotationScan:
    return assemble.scan(RAW, SHAPE, header, Said(**said), None, None)


def _problem(header: Header = HEADER, **said: Any) -> str:
    with pytest.raises(HklflowError) as error:
        _scan(header, **said)
    text = str(error.value)
    assert text.startswith(f"{RAW}: ")
    assert "\n" not in text
    return text


def test_the_raw_file_alone() -> None:
    scan = _scan()
    rotation = scan.rotation
    assert (rotation.beam.wavelength, rotation.beam.polarization) == (1.0, 0.9)
    assert rotation.detector.distance == pytest.approx(0.1)
    assert (rotation.goniometer.names, rotation.goniometer.scan) == (("omega", "chi", "phi"), 2)
    np.testing.assert_allclose(np.degrees(rotation.goniometer.angles[:2]), [11, 22])
    np.testing.assert_allclose(np.degrees(rotation.scan.angle([0, 10])), [33, 34])
    np.testing.assert_array_equal(scan.monitor, np.arange(10) + 100)
    np.testing.assert_array_equal(scan.exposure, [0.2] * 10)
    np.testing.assert_array_equal(scan.attenuation, [0.5] * 10)
    assert (scan.monitor_source, scan.temperature, scan.saturation) == (RAW, 290.0, 1e6)
    assert (scan.raw, scan.first) == (RAW, 0)


def test_tables_and_configuration_go_first() -> None:
    scan = assemble.scan(RAW, SHAPE, HEADER, FULL, _detector(0.3), Beam(1.5, 0.7))
    rotation = scan.rotation
    assert (rotation.beam.wavelength, rotation.beam.polarization) == (2.0, 0.8)
    assert rotation.detector.distance == pytest.approx(0.3)
    assert (rotation.goniometer.names, rotation.goniometer.scan) == (("kappa", "phi"), 1)
    np.testing.assert_array_equal(rotation.goniometer.axes, [[0, 0, 1], [1, 0, 0]])
    assert np.degrees(rotation.goniometer.angles[0]) == pytest.approx(-50)
    np.testing.assert_allclose(np.degrees(rotation.scan.angle([0, 4])), [-180, -181])
    np.testing.assert_array_equal(scan.attenuation, [0.25] * 10)
    assert (scan.monitor_source, scan.temperature) == ("none", 100.0)
    # Without a monitor the exposure time stands for it.
    np.testing.assert_array_equal(scan.monitor, [3.0] * 10)


def test_exposures_that_differ() -> None:
    """Without a monitor, each frame counts as long as it was exposed."""
    times = np.r_[np.full(6, 0.2), np.full(4, 0.4)]
    scan = _scan(replace(HEADER, exposure_time=times), monitor="none", first_frame=2)
    np.testing.assert_array_equal(scan.exposure, times[2:])
    np.testing.assert_array_equal(scan.monitor, times[2:])
    assert "exposure time 0 s" in _problem(replace(HEADER, exposure_time=0.0 * times))
    assert "shape (3,) for 10 frames" in _problem(replace(HEADER, exposure_time=times[:3]))


def test_the_calibration_goes_before_the_raw_file() -> None:
    scan = assemble.scan(RAW, SHAPE, HEADER, Said(), _detector(0.3), Beam(1.5, 0.0))
    assert scan.rotation.detector.distance == pytest.approx(0.3)
    # A polarisation of 0 is a value, not a missing one.
    assert (scan.rotation.beam.wavelength, scan.rotation.beam.polarization) == (1.5, 0.0)


def test_settings_of_the_table_replace_those_of_the_raw_file_one_by_one() -> None:
    scan = _scan(angles={"chi": -5.0})
    np.testing.assert_allclose(np.degrees(scan.rotation.goniometer.angles[:2]), [11, -5])


def test_an_axis_at_0_needs_no_direction() -> None:
    """MarCCD headers have omega, chi, kappa and phi, whatever the goniometer is."""
    axes = {"chi": (0.0, 0.0, 1.0), "phi": (0.0, 1.0, 0.0)}
    said = replace(FULL, axes=axes, angles={"omega": 0.0, "chi": 54.0, "kappa": 0.0})
    goniometer = assemble.scan(RAW, SHAPE, HEADER, said, None, None).rotation.goniometer
    assert goniometer.names == ("chi", "phi")
    assert np.degrees(goniometer.angles[0]) == pytest.approx(54)
    moved = replace(said, angles=said.angles | {"kappa": 1.0})
    with pytest.raises(HklflowError, match="no goniometer axis kappa"):
        assemble.scan(RAW, SHAPE, HEADER, moved, None, None)


def test_a_part_of_the_frames() -> None:
    transmission = np.linspace(0.1, 1, 10)
    scan = _scan(replace(HEADER, transmission=transmission), first_frame=3, last_frame=6)
    assert (scan.first, scan.rotation.scan.n_frames) == (3, 4)
    # Frame 3 of the raw file keeps its angle, monitor and transmission.
    np.testing.assert_allclose(np.degrees(scan.rotation.scan.angle([0, 4])), [33.3, 33.7])
    np.testing.assert_array_equal(scan.monitor, [103, 104, 105, 106])
    np.testing.assert_array_equal(scan.attenuation, transmission[3:7])
    assert scan.exposure.shape == (4,)


def test_no_attenuators_is_a_transmission_of_one() -> None:
    np.testing.assert_array_equal(_scan(replace(HEADER, transmission=None)).attenuation, [1.0] * 10)


def test_all_that_is_missing_is_told_together() -> None:
    told = _problem(Header())
    for part in (
        "wavelength",
        "polarisation",
        "detector's geometry",
        "goniometer",
        "start (None) or the step (None)",
        "exposure time",
        "no monitor",
    ):
        assert part in told
    assert told.count("; ") >= 6


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("wavelength", "set `import_scan: wavelength`"),
        ("polarization", "set `import_scan: polarization`"),
        ("detector", "give the row a `calibration`"),
        ("goniometer", "the goniometer is not known"),
        ("start_deg", "the start (None)"),
        ("step_deg", "step (None)"),
        ("exposure_time", "set `import_scan: exposure` in seconds"),
        ("monitor", "set `import_scan: {monitor: none}`"),
    ],
)
def test_each_missing_thing_is_told_with_its_cure(field: str, expected: str) -> None:
    told = _problem(replace(HEADER, **{field: None}))
    assert expected in told
    assert "; the " not in told


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"exposure_time": 0.0}, "exposure time 0 s"),
        ({"exposure_time": np.nan}, "exposure time nan s"),
        ({"exposure_time": np.inf}, "exposure time inf s"),
        ({"wavelength": 0.0}, "wavelength 0 Å is outside"),
        ({"wavelength": np.nan}, "wavelength nan Å is outside"),
        ({"polarization": -1.0}, "polarisation is -1, outside 0 to 1"),
        ({"step_deg": 0.0}, "step (0.0)"),
        ({"monitor": np.array([1.0, 0.0] * 5)}, "frame 1 has 0"),
        ({"temperature": None, "temperature_doubt": "the clock jumps"}, "the clock jumps"),
        ({"start_deg": -1.0, "step_deg": np.pi / 10}, "equals 180° in radians"),
        ({"start_deg": 0.0, "step_deg": -0.2 * np.pi}, "equals 360° in radians"),
        ({"monitor": np.array([1.0, 2.0, np.nan] + [1.0] * 7)}, "frame 2 has nan"),
        ({"monitor": np.ones(9)}, "shape (9,)"),
        ({"monitor": None, "monitor_doubt": "two monitors"}, "two monitors"),
        (
            {"transmission": 0.0},
            "attenuators (shape (), 0 to 0) must be above 1e-12",
        ),
        ({"transmission": 1.5}, "must be above 1e-12 and at most 1"),
        ({"transmission": np.full(10, np.nan)}, "must be above 1e-12 and at most 1"),
        ({"transmission": np.ones(9)}, "shape (9,)"),
        ({"detector": replace(_detector(0.1), shape=(30, 20))}, "the geometry has (30, 20)"),
        ({"step_deg": None, "angles_deg": np.array([0, 1, 3.0])}, "not evenly spaced"),
        *(
            ({"monitor": np.array([1.0, 2.0, value] + [1.0] * 7)}, f"frame 2 is {value:g}, outside")
            for value in (1e300, 1e-300, 5e-324, 1.1e18, 0.9e-15)
        ),
        ({"monitor": np.full(10, np.inf)}, "(frame 0 has inf)"),
        (
            {"exposure_time": 1e300},
            "exposure time 1e+300 s is outside the plausible range 1e-15 to 100000 s",
        ),
        (
            {"exposure_time": 1e-300},
            "exposure time 1e-300 s is outside the plausible range 1e-15 to 100000 s",
        ),
        ({"transmission": 1e-300}, "(shape (), 1e-300 to 1e-300) must be above 1e-12"),
        ({"wavelength": 1e300}, "wavelength 1e+300 Å is outside"),
        ({"wavelength": 1e-300}, "wavelength 1e-300 Å is outside"),
        ({"temperature": 1e-300}, "temperature 1e-300 K is outside"),
        ({"temperature": np.inf}, "temperature inf K is outside"),
        ({"start_deg": 1e300}, "a scan from 1e+300° in steps of 0.1° is not plausible"),
        ({"start_deg": np.nan}, "a scan from nan° in steps"),
        ({"step_deg": 1e-300}, "in steps of 1e-300° is not plausible"),
        ({"saturation": 1e-300}, "saturation 1e-300 counts is outside"),
        ({"saturation": -1.0}, "saturation -1 counts is outside"),
        ({"saturation": np.nan}, "saturation nan counts is outside"),
        ({"underload": np.nan}, "smallest valid value (underload) is nan"),
        ({"detector": replace(_detector(0.1), pixel_size=(1e300, 1e-4))}, "pixel size 1e+300 x"),
        ({"detector": replace(_detector(0.1), pixel_size=(1e-300, 1e-4))}, "pixel size 1e-300 x"),
        ({"detector": _detector(1e300)}, "detector centre 1e+300 m"),
        (
            {"detector": replace(_detector(0.1), sensor_thickness=1e-300, sensor_attenuation=4e3)},
            "a sensor of 1e-300 m with attenuation 4000 1/m is not plausible",
        ),
        *(
            ({"goniometer": _turned(value)}, f"axis chi at {value:g}° is outside")
            for value in (1e300, np.inf, np.nan)
        ),
    ],
)
def test_a_header_that_cannot_be_is_not_believed(header: dict[str, Any], expected: str) -> None:
    assert expected in _problem(replace(HEADER, **header))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"first_frame": 5, "last_frame": 4}, "frames 5 to 4 are not within 0 to 9"),
        ({"last_frame": 10}, "frames 0 to 10 are not within 0 to 9"),
        ({"first_frame": 10}, "frames 10 to 9 are not within 0 to 9"),
        ({"angles": {"kappa": 1.0}}, "no goniometer axis kappa (the axes are omega, chi, phi)"),
        ({"scan_axis": "mu", "start": 0, "step": 1}, "no goniometer axis mu"),
        ({"monitor": "ion chamber"}, "monitor 'ion chamber' is neither `file` nor `none`"),
        ({"axes": {"a": (1, 0, 0), "b": (0, 1, 0)}}, "unknown scan axis"),
        (
            {"axes": {"a": (1, 0, 0), "b": (0, 1, 0), "c": (0, 0, 1)}, "scan_axis": "b"},
            "the angle of goniometer axis a, c is not known",
        ),
    ],
)
def test_tables_that_contradict(said: dict[str, Any], expected: str) -> None:
    assert expected in _problem(**said)


def test_unusual_numbers_are_believed() -> None:
    """Current of a diode in A, photons of a pulse, a saturation that is not said, 0 K."""
    for monitor in (1e-12, 1e17):
        scan = _scan(replace(HEADER, monitor=np.full(10, monitor), saturation=0.0))
        np.testing.assert_array_equal(scan.monitor, np.full(10, monitor))
    assert _scan(replace(HEADER, temperature=0.0, exposure_time=3e-14)).temperature == 0
    # What is not used may be anything.
    header = replace(HEADER, monitor=np.array([1.0] * 9 + [1e300]))
    assert _scan(header, leave_out=["9"]).monitor[9] == 1


def test_one_axis_needs_no_name_of_the_scanned_one() -> None:
    scan = _scan(replace(HEADER, goniometer=None), axes={"spin": (0.0, 1.0, 0.0)})
    assert scan.rotation.goniometer.names == ("spin",)


def test_the_header_speaks_of_its_own_scanned_axis_only() -> None:
    """The table scans omega; the header's phi, start and step are those of another scan."""
    told = _problem(scan_axis="omega")
    assert "the angle of goniometer axis phi is not known" in told
    assert "start (None) or the step (None)" in told
    scan = _scan(scan_axis="omega", start=5.0, step=1.0, angles={"phi": 7.0})
    np.testing.assert_allclose(np.degrees(scan.rotation.goniometer.angles[1:]), [22, 7])
    np.testing.assert_allclose(np.degrees(scan.rotation.scan.angle([0, 1])), [5, 6])


def test_a_step_in_the_table_goes_before_uneven_angles() -> None:
    header = replace(HEADER, step_deg=None, angles_deg=np.array([0, 1, 3.0]))
    assert np.degrees(_scan(header, step=0.5).rotation.scan.step) == pytest.approx(0.5)


def test_axes_of_the_configuration() -> None:
    assert assemble.parse_axes([]) is None
    parsed = assemble.parse_axes(["chi=0,0,1", " phi = -1, 0,1e-3"])
    assert parsed == {"chi": (0.0, 0.0, 1.0), "phi": (-1.0, 0.0, 1e-3)}
    assert list(parsed) == ["chi", "phi"]


@pytest.mark.parametrize(
    "texts",
    [
        ["phi"],
        ["phi=1,0"],
        ["phi=1,0,0,0"],
        ["phi=x,0,0"],
        ["=1,0,0"],
        ["phi=0,0,0"],
        ["phi=nan,0,0"],
        ["phi=1,0,0", "phi=0,1,0"],
    ],
)
def test_bad_axes_are_named(texts: list[str]) -> None:
    with pytest.raises(HklflowError, match=f"goniometer axis '{texts[-1]}'"):
        assemble.parse_axes(texts)


def test_calibration_products() -> None:
    detector = replace(_detector(0.3), sensor_thickness=4.5e-4, sensor_attenuation=700.0)
    data = {
        "detector": geometry.detector_to_dict(detector),
        "beam": {"wavelength_A": 0.5, "polarization": 0.95},
    }
    found, beam = assemble.calibrated(data, Path("g.json"))
    assert beam == Beam(0.5, 0.95)
    assert found.distance == pytest.approx(0.3)
    assert (found.sensor_thickness, found.sensor_attenuation) == (4.5e-4, 700.0)
    with pytest.raises(HklflowError, match=r"g\.json contains no detector geometry"):
        assemble.calibrated({"beam": data["beam"]}, Path("g.json"))


def test_the_summary_is_one_line_with_the_figures() -> None:
    line = assemble.summary(_scan())
    assert "\n" not in line
    for part in ("10 frames", "phi 33 to 34 deg", "omega 11, chi 22", "1 Å", "100.000 mm"):
        assert part in line


@pytest.mark.parametrize("step", [1e-5, 0.0005, 0.002, np.pi / 10 * 1.001])
def test_small_steps_are_no_radians(step: float) -> None:
    scan = _scan(replace(HEADER, step_deg=step))
    assert np.degrees(scan.rotation.scan.step) == pytest.approx(step)


def test_a_person_knows_better_than_a_doubt() -> None:
    """Temperature, monitor and angles that the tables give are not asked about."""
    two = replace(HEADER, monitor=None, monitor_doubt="two monitors")
    assert _scan(two, monitor="none").monitor_source == "none"
    doubt = replace(HEADER, temperature=None, temperature_doubt="the clock jumps")
    assert _scan(doubt, temperature=12.0).temperature == 12
    radians = replace(HEADER, start_deg=0.0, step_deg=np.pi / 10)
    scan = _scan(radians, start=0.0, step=np.pi / 10)
    assert np.degrees(scan.rotation.scan.step) == pytest.approx(np.pi / 10)


def test_frames_left_out() -> None:
    scan = _scan(leave_out=("7-8", "2", "8-9"))
    assert scan.left_out == (2, 7, 8, 9)
    assert scan.rotation.scan.n_frames == 10
    for items, told in (
        (("3", "9-10"), "'9-10': the raw frames are numbered 0 to 9"),
        (("r1:3",), "give the frames of this rotation only"),
        (("0-9",), "leaves no frame"),
    ):
        assert told in _problem(leave_out=items)
    assert "leaves no frame" in _problem(leave_out=("4-6",), first_frame=4, last_frame=6)


def test_frames_that_are_not_used_need_no_monitor() -> None:
    monitor = np.array([1.0, 2, 3, 4, 0, 6, 7, 8, np.nan, -3])
    transmission = np.array([1.0, 1, 1, 1, 0, 1, 1, 1, np.nan, 0])
    header = replace(HEADER, monitor=monitor, transmission=transmission)
    told = (
        "(frame 4 has 0): leave out the frames without beam (`import_scan: {leave_out: [4, 8-9]}`)"
    )
    assert told in _problem(header, attenuation=1.0)
    scan = _scan(header, leave_out=("4",), last_frame=7)
    np.testing.assert_array_equal(scan.monitor, [1, 2, 3, 4, 4, 6, 7, 8])
    np.testing.assert_array_equal(scan.attenuation, np.ones(8))
    assert "transmission" in _problem(replace(header, monitor=None), monitor="none")
