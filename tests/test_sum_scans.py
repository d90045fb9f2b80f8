"""Sums of repeated scans: exact counts, what is added, and what is refused."""

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fabio
import h5py
import numpy as np
import pytest

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.formats.header import Header
from hklflow.formats.raw import open_frames, read_header
from hklflow.formats.sum_raw import _angles
from hklflow.formats.write_images import write_cbf_series
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.images.frame_sum import FrameSum, sum_types
from hklflow.simulation.frames import (
    Background,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stages import import_scan, sum_scans

N, SHAPE = 5, (20, 30)
DETECTOR = DetectorModel(
    SHAPE,
    0.1,
    (8.0, 17.0),
    (172e-6, 100e-6),
    tilt=(0.1, -0.2),
    in_plane=0.3,
    gaps=((9, 11, 0, 30),),
    sensor_thickness=450e-6,
)
SIMULATION = Simulation(
    DETECTOR,
    GoniometerModel(((0, 1, 0), (-1, 0, 0)), (0.4, 0.0), ("omega", "phi"), 1),
    ScanModel(0.2, 0.01, N, 0.4, flux=1e3, exposure=0.25, drift=0.1, temperature=120.0),
    CrystalModel((4, 4, 4, 90, 90, 90)),
)


def write_scan(path: Path, frames: np.ndarray, **changes: Any) -> Path:
    header = SIMULATION.raw_header() | {"sensor_material": "Si"}
    header |= {"n_frames": len(frames), "dtype": frames.dtype} | changes
    if len(frames) != N and "monitor" not in changes:
        header["monitor"] = np.ones(len(frames))
    with NXmxWriter(path, NXmxHeader(**header)) as writer:
        writer.append(frames)
    return path


def counts(seed: int, high: int = 1000, dtype: Any = np.uint32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, (N, *SHAPE), dtype=np.int64).astype(dtype)


def sum_of(raw: list[Path], out: Path, **params: Any) -> np.ndarray:
    stage.run(
        sum_scans.main,
        inputs=sum_scans.Inputs(raw=raw),
        outputs=sum_scans.Outputs(sum=out),
        params=sum_scans.Params(**params),
        threads=1,
    )
    with open_frames(out) as frames:
        return frames.read(0, frames.shape[0])


def refused(raw: list[Path], out: Path, **params: Any) -> str:
    with pytest.raises(HklflowError) as error:
        sum_of(raw, out, **params)
    assert not out.exists()
    text = str(error.value)
    assert "\n" not in text
    return text


# ------------------------------------------------------------------------------- the counts


@pytest.mark.parametrize(
    ("dtype", "saturation", "stored"),
    [
        (np.uint8, None, np.uint16),
        (np.uint16, None, np.uint32),
        (np.uint16, 10_000, np.uint16),
        (np.int32, None, np.uint32),
        (np.uint32, 2**31 - 1, np.uint32),
    ],
)
@pytest.mark.parametrize("block", [1, 3, 16])
def test_the_sum_is_exact_and_the_type_holds_the_largest_possible(
    tmp_path: Path, dtype: Any, saturation: int | None, stored: Any, block: int
) -> None:
    largest = min(np.iinfo(dtype).max - 1, (saturation or 2**63) - 1)
    parts = [counts(seed, largest + 1, dtype) for seed in range(2)]
    # The largest counts of both meet in one pixel.
    for part in parts:
        part[2, 3, 4] = largest
    raw = [
        write_scan(tmp_path / f"{i}.nxs", part, saturation=saturation)
        for i, part in enumerate(parts)
    ]
    found = sum_of(raw, tmp_path / "sum.nxs", block=block)
    assert found.dtype == stored
    np.testing.assert_array_equal(found, sum(part.astype(np.int64) for part in parts))
    assert found[2, 3, 4] == 2 * largest


def test_sums_beyond_32_bits_take_64(tmp_path: Path) -> None:
    """Without a saturation value uint32 could count anything; the counts decide."""
    parts = [np.full((N, *SHAPE), 2**31 - 1, np.uint32) for _ in range(2)]
    # A scan whose counts are all the same is a copy.
    parts[0][0, 0, 0], parts[1][0, 0, 0] = 2**31 - 2, 2**31
    raw = [write_scan(tmp_path / f"{i}.nxs", part, saturation=None) for i, part in enumerate(parts)]
    small = sum_of(raw, tmp_path / "small.nxs")
    assert small.dtype == np.uint32
    assert (small == 2**32 - 2).all()
    # One count more is the flag of uint32: only 64 bits tell them apart.
    parts[1][N - 1, 7, 7] += 1
    write_scan(raw[1], parts[1], saturation=None)
    large = sum_of(raw, tmp_path / "large.nxs", block=2)
    assert large.dtype == np.uint64
    assert large[N - 1, 7, 7] == 2**32 - 1
    parts[0][:] = parts[1][:] = 2**32 - 2
    parts[1][0, 0, 0] = 0
    for path, part in zip(raw, parts, strict=True):
        write_scan(path, part, saturation=None)
    largest = sum_of(raw, tmp_path / "largest.nxs")
    assert largest[0, 0, 0] == 2**32 - 2
    assert (largest.ravel()[1:] == 2**33 - 4).all()


def test_a_wrap_of_64_bits_is_seen() -> None:
    total = FrameSum((1, 2, 2))
    block = np.full((1, 2, 2), 2**64 - 2, np.uint64)
    total.add(block, None)
    with pytest.raises(HklflowError, match="does not fit 64 bits"):
        total.add(block, None)
    assert [kind.dtype for kind in sum_types([block.dtype] * 2, None)] == [np.uint32, np.uint64]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32])
def test_flags_and_masks_of_any_scan_are_those_of_the_sum(tmp_path: Path, dtype: Any) -> None:
    parts = [counts(seed, 500, dtype) for seed in range(3)]
    flag = -1 if dtype is np.int32 else np.iinfo(dtype).max
    rng = np.random.default_rng(9)
    flags = rng.random((3, N, *SHAPE)) < 0.05
    masks = rng.integers(0, 4, (3, *SHAPE)).astype(np.uint32)
    for part, bad in zip(parts, flags, strict=True):
        part[bad] = flag
    raw = [
        write_scan(tmp_path / f"{i}.nxs", parts[i], pixel_mask=masks[i], saturation=10_000)
        for i in range(3)
    ]
    found = sum_of(raw, tmp_path / "sum.nxs")
    expected = flags.any(axis=0)
    assert 0.1 < expected.mean() < 0.2
    np.testing.assert_array_equal(found == np.iinfo(found.dtype).max, expected)
    truth = np.sum([part.astype(np.int64) for part in parts], axis=0)
    np.testing.assert_array_equal(found[~expected], truth[~expected])
    with h5py.File(tmp_path / "sum.nxs") as file:
        bits = file["entry/instrument/detector/pixel_mask"][()]
    np.testing.assert_array_equal(bits, masks[0] | masks[1] | masks[2])


def test_what_saturates_in_one_scan_is_saturated_in_the_sum(tmp_path: Path) -> None:
    saturation = 1000
    parts = [counts(seed, 400) for seed in range(2)]
    parts[0][1, 2, 3] = 999  # the largest count to be believed
    parts[1][1, 2, 3] = 999
    parts[0][1, 2, 4] = 1000  # saturated, though the other is not
    parts[1][3, 5, 5] = 4000
    parts[1][3, 5, 6], parts[0][3, 5, 6] = 4000, 2**32 - 1  # saturated and flagged: flagged
    raw = [write_scan(tmp_path / f"{i}.nxs", p, saturation=saturation) for i, p in enumerate(parts)]
    found = sum_of(raw, tmp_path / "sum.nxs")
    limit = read_header(tmp_path / "sum.nxs").saturation
    assert limit == 1999
    assert found[1, 2, 3] == 1998
    assert found[1, 2, 4] == found[3, 5, 5] == limit
    assert found[3, 5, 6] == np.iinfo(found.dtype).max
    assert (found >= limit).sum() == 3
    # What the configuration says goes before what the files say.
    found = sum_of(raw, tmp_path / "other.nxs", saturation=350.5)
    assert read_header(tmp_path / "other.nxs").saturation == 701
    expected = (parts[0] > 350) | (parts[1] > 350)
    np.testing.assert_array_equal(found >= 701, expected)


# -------------------------------------------------------------------------- what is added


def test_monitors_and_exposures_are_added_and_the_rest_is_kept(tmp_path: Path) -> None:
    raw = [
        write_scan(tmp_path / "a.nxs", counts(0), temperature=119.8),
        write_scan(
            tmp_path / "b.nxs",
            counts(1),
            monitor=np.arange(N) + 7.0,
            exposure=0.75,
            temperature=120.2,
        ),
    ]
    sum_of(raw, tmp_path / "sum.nxs")
    a, total = read_header(raw[0]), read_header(tmp_path / "sum.nxs")
    np.testing.assert_allclose(total.monitor, a.monitor + np.arange(N) + 7, rtol=1e-15)
    assert total.exposure_time == pytest.approx(1.0)
    assert total.temperature == pytest.approx(120.0)
    for name in ("wavelength", "polarization", "transmission", "n_frames", "sensor_material"):
        assert getattr(total, name) == getattr(a, name), name
    assert (total.start_deg, total.step_deg) == pytest.approx((a.start_deg, a.step_deg))
    assert a.detector is not None
    assert total.detector is not None
    np.testing.assert_allclose(total.detector.origin, a.detector.origin, atol=1e-12)
    np.testing.assert_allclose(total.detector.slow, a.detector.slow, atol=1e-12)
    assert total.detector.sensor_thickness == a.detector.sensor_thickness
    assert a.goniometer is not None
    assert total.goniometer is not None
    assert total.goniometer.names == a.goniometer.names
    np.testing.assert_allclose(total.goniometer.rotation(0.3), a.goniometer.rotation(0.3))
    history = stage.provenance(tmp_path / "sum.nxs")
    assert [record["stage"] for record in history] == ["sum_scans"]
    assert [item["path"] for item in history[0]["inputs"]["raw"]] == [str(path) for path in raw]


def test_angles_and_attenuators_by_frame_are_kept(tmp_path: Path) -> None:
    uneven = np.array([0.0, 0.01, 0.03, 0.04, 0.08])
    attenuators = np.linspace(0.1, 0.5, N)
    raw = [
        write_scan(
            tmp_path / f"{i}.nxs",
            counts(i),
            start=None,
            step=None,
            scan_angles=uneven,
            attenuator_transmission=attenuators,
        )
        for i in range(2)
    ]
    sum_of(raw, tmp_path / "sum.nxs")
    total = read_header(tmp_path / "sum.nxs")
    np.testing.assert_allclose(np.radians(total.angles_deg), uneven, atol=1e-15)
    np.testing.assert_array_equal(total.transmission, attenuators)


def test_two_half_exposures_are_one_full_exposure() -> None:
    """In counts and in monitor: the difference is Poisson noise."""
    simulation = Simulation(
        DetectorModel((60, 70), 0.1, (30.0, 35.0), (8e-4, 8e-4)),
        GoniometerModel(),
        ScanModel(0.0, 0.03, 12, 0.4, flux=40.0, drift=-0.2),
        CrystalModel((4, 4, 4, 90, 90, 90), scale=0.5, mosaic=0.01),
        Diffuse(flat=0.3),
        Background(air=0.5),
    )

    def of(exposure: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        one = replace(simulation, scan=replace(simulation.scan, exposure=exposure, seed=seed))
        return np.concatenate(list(one.frames())), one.scan.monitor

    (a, monitor_a), (b, monitor_b), (full, monitor) = of(0.3, 1), of(0.7, 2), of(1.0, 3)
    total = FrameSum(a.shape)
    total.add(a, None)
    total.add(b, None)
    (kind,) = sum_types([a.dtype, b.dtype], 2**31 - 1)
    found = total.stored(kind)
    assert found is not None
    np.testing.assert_allclose(monitor_a + monitor_b, monitor, rtol=1e-12)
    assert full.max() > 200  # Bragg peaks
    use = found.astype(float) + full > 0
    difference = found[use].astype(float) - full[use]
    chi2 = np.sum(difference**2 / (found[use].astype(float) + full[use]))
    freedom = int(use.sum())
    assert freedom > 40_000
    # Of T counts in both, half are in each: the mean of chi2 is `freedom` however few they are.
    assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)
    # It would see exposures that differ by one per cent.
    wrong = 1.01 * found[use] - full[use]
    assert np.sum(wrong) ** 2 / np.sum(found[use] + full[use].astype(float)) > 16
    assert np.sum(difference) ** 2 / np.sum(found[use] + full[use].astype(float)) < 16


# -------------------------------------------------------------------------------- formats


def _cbf(folder: Path, name: str, frames: np.ndarray) -> list[Path]:
    return write_cbf_series(
        folder,
        name,
        [frames],
        wavelength=0.4,
        distance=0.1,
        beam_centre=(8.0, 17.0),
        pixel_size=(172e-6, 172e-6),
        start=0.2,
        step=0.01,
        exposure=0.1,
        monitor=np.arange(N) + 5.0,
        pixel_mask=DETECTOR.gap_mask,
        saturation=5000,
    )


def _tif(folder: Path, name: str, frames: np.ndarray) -> list[Path]:
    paths = [folder / f"{name}_{z + 1:05d}.tif" for z in range(len(frames))]
    for path, frame in zip(paths, frames, strict=True):
        fabio.tifimage.TifImage(data=frame.astype(np.uint16)).write(str(path))
    return paths


@pytest.mark.parametrize("write", [_cbf, _tif])
def test_image_series(tmp_path: Path, write: Callable[[Path, str, np.ndarray], list[Path]]) -> None:
    parts = [counts(seed) for seed in range(2)]
    raw, patterns = [], []
    for name, part in zip("ab", parts, strict=True):
        paths = write(tmp_path, name, part)
        raw += [paths[0], paths[-1]]
        patterns.append(str(tmp_path / f"{name}_#####{paths[0].suffix}"))
    found = sum_of(raw, tmp_path / "sum.nxs", patterns=patterns)
    live = np.ones(SHAPE, bool) if write is _tif else ~DETECTOR.gap_mask
    np.testing.assert_array_equal(found[:, live], (parts[0] + parts[1])[:, live])
    assert (found[:, ~live] == np.iinfo(found.dtype).max).all()
    header, one = read_header(tmp_path / "sum.nxs"), read_header(patterns[0])
    assert header.n_frames == N
    assert header.goniometer is None
    if write is _cbf:
        np.testing.assert_array_equal(header.pixel_mask, DETECTOR.gap_mask)
        np.testing.assert_allclose(header.monitor, 2 * (np.arange(N) + 5.0))
        assert (header.exposure_time, header.wavelength) == pytest.approx((0.2, 0.4))
        assert (header.start_deg, header.step_deg) == pytest.approx(
            (one.start_deg, one.step_deg), abs=1e-9
        )
        assert header.saturation == 2 * 4999 + 1
        assert header.detector is not None
        assert header.detector.distance == pytest.approx(0.1)
    else:
        # A TIFF says nothing, and so does the sum.
        assert (header.wavelength, header.detector, header.monitor) == (None, None, None)
        assert (header.exposure_time, header.start_deg, header.saturation) == (None, None, None)


def test_the_sum_is_imported_like_any_raw_file(tmp_path: Path) -> None:
    raw = [write_scan(tmp_path / f"{i}.nxs", counts(i)) for i in range(2)]
    sum_of(raw, tmp_path / "sum.nxs")
    scans = []
    for source in (raw[0], tmp_path / "sum.nxs"):
        out = tmp_path / f"scan_of_{source.name}"
        stage.run(
            import_scan.main,
            inputs=import_scan.Inputs(raw=[source]),
            outputs=import_scan.Outputs(scan=out),
            params=import_scan.Params(n_frames=N),
            threads=1,
        )
        from hklflow import nexus

        scans.append(nexus.read_scan(out))
        assert nexus.has_frames(out)
    one, total = scans
    np.testing.assert_allclose(total.monitor, 2 * one.monitor)
    np.testing.assert_allclose(total.exposure, 2 * one.exposure)
    np.testing.assert_allclose(
        total.rotation.q_lab(3.0, 4.0), one.rotation.q_lab(3.0, 4.0), atol=1e-12
    )
    assert [r["stage"] for r in stage.provenance(tmp_path / "scan_of_sum.nxs")] == [
        "sum_scans",
        "import_scan",
    ]


# -------------------------------------------------------------------------------- refusals

TURNED = np.array([np.cos(0.01), np.sin(0.01), 0.0])


@pytest.mark.parametrize(
    ("changes", "what", "values"),
    [
        ({"wavelength": 0.41}, "wavelength", ("0.4 Å", "0.41 Å")),
        ({"polarization": 0.5}, "polarisation", ("0.99", "0.5")),
        ({"saturation": 999}, "saturation value", ("2147483647 counts", "999 counts")),
        ({"saturation": None}, "saturation value", ("2147483647 counts", "not stated")),
        ({"attenuator_transmission": 0.5}, "attenuators' transmission", ("1", "0.5")),
        ({"temperature": 121.0}, "temperature", ("120 K", "121 K")),
        ({"temperature": None}, "temperature", ("stated", "not stated")),
        ({"monitor": None}, "monitor", ("stated", "not stated")),
        ({"exposure": None}, "exposure time", ("stated", "not stated")),
        ({"sensor_material": "CdTe"}, "sensor material", ("Si", "CdTe")),
        ({"sensor_thickness": 1e-3}, "sensor thickness", ("0.00045", "0.001")),
        ({"pixel_size": (172e-6, 172e-6)}, "pixel size", ("(0.172, 0.1) mm", "(0.172, 0.172) mm")),
        ({"origin": DETECTOR.origin + np.array([0, 0, 1e-4])}, "detector origin", (" mm", " mm")),
        ({"origin": None}, "detector geometry", ("stated", "not stated")),
        ({"axis_names": ("omega", "chi")}, "goniometer axes", ("omega, phi", "omega, chi")),
        ({"axis_names": ()}, "goniometer", ("stated", "not stated")),
        ({"axes": [[0, 1, 0], TURNED]}, "direction of axis phi", ("(-1, 0, 0)", "(0.99995, ")),
        ({"angles": [0.41, 0.0]}, "setting of axis omega", ("22.9183°", "23.4913°")),
        ({"scan_axis": 0}, "scanned axis", ("phi", "omega")),
        ({"start": 0.2002}, "start of the scan", ("11.4592°", "11.4706°")),
        ({"step": 0.0102}, "step of the scan", ("0.572958°", "0.584417°")),
    ],
)
def test_every_difference_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], what: str, values: tuple[str, str]
) -> None:
    if changes.get("axis_names") == ():
        changes = changes | {"axes": (), "angles": ()}
    a = write_scan(tmp_path / "a.nxs", counts(0))
    b = write_scan(tmp_path / "b.nxs", counts(1), **changes)
    told = refused([a, b], tmp_path / "sum.nxs")
    mine, theirs = (re.escape(value) for value in values)
    assert re.search(f"{re.escape(what)}: .*{mine}.* in {a} but .*{theirs}.* in {b}", told), told


@pytest.mark.parametrize(("step", "alike"), [(21.0, True), (21.001, False), (18.999, False)])
def test_a_step_may_move_the_last_frame_by_a_twentieth_of_a_frame(step: float, alike: bool) -> None:
    """One frame of 20°: the limit, 1°, is a number that has no rounding error."""
    told = [what for what, *_ in _angles(Header(step_deg=20.0), Header(step_deg=step), 1)]
    assert told == ([] if alike else ["step of the scan"])


def test_other_numbers_and_shapes_of_frames_are_refused(tmp_path: Path) -> None:
    a = write_scan(tmp_path / "a.nxs", counts(0))
    b = write_scan(tmp_path / "b.nxs", counts(1)[:4])
    assert f"number of frames: 5 in {a} but 4 in {b}" in refused([a, b], tmp_path / "sum.nxs")
    small = np.ones((N, 20, 29), np.uint32)
    mask = np.zeros((20, 29), np.uint32)
    b = write_scan(tmp_path / "b.nxs", small, shape=(20, 29), pixel_mask=mask)
    assert f"frame shape: 20 x 30 pixels in {a} but 20 x 29 pixels in {b}" in refused(
        [a, b], tmp_path / "sum.nxs"
    )


def test_all_differences_of_all_scans_are_named_at_once(tmp_path: Path) -> None:
    a = write_scan(tmp_path / "a.nxs", counts(0))
    b = write_scan(tmp_path / "b.nxs", counts(1), wavelength=0.5, attenuator_transmission=0.1)
    c = write_scan(tmp_path / "c.nxs", counts(2)[:3], step=0.02, temperature=125.0)
    told = refused([a, b, c], tmp_path / "sum.nxs")
    for what in (
        f"wavelength: 0.4 Å in {a} but 0.5 Å in {b}",
        f"attenuators' transmission: 1 in {a} but 0.1 in {b}",
        f"number of frames: 5 in {a} but 3 in {c}",
        f"step of the scan: 0.572958° in {a} but 1.14592° in {c}",
        f"temperature: 120 K in {a} but 125 K in {c}",
    ):
        assert what in told
    assert told.count("; ") == 4


def test_the_tolerance_of_the_temperature_is_for_any_two_scans(tmp_path: Path) -> None:
    """Each is within 0.4 K of the first, but two are 0.6 K apart."""
    raw = [
        write_scan(tmp_path / f"{t}.nxs", counts(round(t * 10)), temperature=t)
        for t in (120.0, 119.7, 120.3)
    ]
    told = refused(raw, tmp_path / "sum.nxs")
    assert f"temperature: 119.7 K in {raw[1]} but 120.3 K in {raw[2]}" in told
    sum_of(raw, tmp_path / "sum.nxs", temperature_tolerance=0.7)
    assert read_header(tmp_path / "sum.nxs").temperature == pytest.approx(120.0)


def test_encoder_noise_is_no_difference(tmp_path: Path) -> None:
    a = write_scan(tmp_path / "a.nxs", counts(0))
    b = write_scan(tmp_path / "b.nxs", counts(1), start=0.2 + 2e-5, wavelength=0.4 * (1 + 2e-6))
    assert sum_of([a, b], tmp_path / "sum.nxs").shape == (N, *SHAPE)


def test_one_scan_or_the_same_twice_is_no_sum(tmp_path: Path) -> None:
    a = write_scan(tmp_path / "a.nxs", counts(0))
    assert "a sum of 1 scan" in refused([a], tmp_path / "sum.nxs")
    assert "the same scan" in refused([a, a], tmp_path / "sum.nxs")
    link = tmp_path / "b.nxs"
    link.symlink_to(a)
    assert f"{link} and {a} are the same scan" in refused([a, link], tmp_path / "sum.nxs")


def test_a_copy_with_another_header_is_no_repeated_scan(tmp_path: Path) -> None:
    a = write_scan(tmp_path / "a.nxs", counts(1))
    b = write_scan(tmp_path / "b.nxs", counts(1), temperature=120.1)
    text = refused([a, b], tmp_path / "sum.nxs")
    assert (
        f"{b} has the same counts as {a} in all of the frames 0, 1, 2, 3, 4: it is a copy" in text
    )
    empty = [write_scan(tmp_path / f"{i}.nxs", 0 * counts(1)) for i in range(2)]
    assert sum_of(empty, tmp_path / "empty.nxs").sum() == 0


def test_real_numbers_are_not_added(tmp_path: Path) -> None:
    raw = [write_scan(tmp_path / f"{i}.nxs", counts(i).astype(np.float32)) for i in range(2)]
    told = refused(raw, tmp_path / "sum.nxs")
    assert told.startswith(f"{raw[0]}: frames of type float32 cannot be summed")


def test_two_formats_are_not_added(tmp_path: Path) -> None:
    a = write_scan(tmp_path / "a.nxs", counts(0))
    told = refused([a], tmp_path / "sum.nxs", patterns=(str(tmp_path / "x_####.cbf"),))
    assert f"{a} is an HDF5 file, but there are also patterns" in told


def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = [write_scan(tmp_path / f"{i}.nxs", counts(i)) for i in range(2)]
    words = ["--raw", *map(str, raw), "--sum", str(tmp_path / "sum.nxs"), "--block", "2"]
    monkeypatch.setattr(sys, "argv", ["sum_scans", *words])
    with pytest.raises(SystemExit) as ended:
        stage.command(sum_scans.main)
    assert not ended.value.code
    assert "5 frames of 2 scans summed as uint32" in capsys.readouterr().out
