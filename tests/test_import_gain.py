"""Gain of integrating detectors at import: stated, measured, refused; and frames in photons."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.formats import raw, smv
from hklflow.formats.frame_bruker import bruker_gain
from hklflow.formats.frame_headers import Fields
from hklflow.formats.frame_table import FORMATS
from hklflow.formats.measured_gain import measured_scan
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.images.gain import Stated
from hklflow.stages import bin_frames, import_scan, sum_scans
from tests.truth.ccd import Ccd

N, SHAPE = 40, (192, 192)
CAMERA = Ccd(1.6, 40.0, 3.0, spread=0.5)
DARK = {"offset": 40.0, "read_noise": 3.0}


def written(path: Path, frames: np.ndarray, **changes: Any) -> Path:
    header: dict[str, Any] = {
        "shape": SHAPE,
        "pixel_size": (1e-3, 1e-3),
        "origin": (0.1, 0.1, 0.2),
        "slow": (0.0, -1.0, 0.0),
        "fast": (-1.0, 0.0, 0.0),
        "wavelength": 0.5,
        "axis_names": ("phi",),
        "axes": [(-1.0, 0.0, 0.0)],
        "angles": [0.0],
        "start": 0.0,
        "step": np.radians(0.5),
        "n_frames": len(frames),
        "exposure": 0.1,
        "monitor": np.ones(len(frames)),
        "polarization": 0.99,
        "saturation": 60000,
        "dtype": frames.dtype,
        "integrates": True,
    }
    with NXmxWriter(path, NXmxHeader(**header | changes)) as writer:
        writer.append(frames)
    return path


@pytest.fixture(scope="module")
def adu() -> np.ndarray:
    rng = np.random.default_rng(3)
    y, x = np.indices(SHAPE)
    rate = 2 + 150 * np.exp(-((x - 90) ** 2 + (y - 100) ** 2) / (2 * 60**2))
    return CAMERA.adu(rng.poisson(rate, (N, *SHAPE)), rng)


def imported(source: Path, **params: Any) -> Path:
    out = source.with_suffix(".scan")
    stage.run(
        import_scan.main,
        inputs=import_scan.Inputs(raw=[source]),
        outputs=import_scan.Outputs(scan=out),
        params=import_scan.Params(**params),
        threads=1,
    )
    return out


def test_the_gain_is_measured_and_frames_are_photons(
    adu: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = adu.copy()
    frames[5, 7, 8] = 65535
    scan = nexus.read_scan(imported(written(tmp_path / "a.nxs", frames), **DARK))
    assert scan.gain is not None
    assert "ADU per photon from the noise of the frames" in capsys.readouterr().out
    assert "share the light" in scan.gain.source
    gain = scan.gain.adu_per_photon
    assert gain == pytest.approx(1.6, rel=0.08)
    assert scan.saturation == pytest.approx((60000 - 40) / gain)
    variance = raw.read_variance(scan)
    assert variance is not None
    np.testing.assert_allclose(variance, (9 + 1 / 12) / gain**2, rtol=1e-6)
    with raw.open_scan(scan) as opened:
        blocks = [block.copy() for block in opened.stream(3, threads=2)]
    photons = np.concatenate(blocks)
    assert np.isnan(photons[5, 7, 8])
    assert np.isnan(photons).sum() == 1
    np.testing.assert_allclose(
        np.nan_to_num(photons),
        np.where(frames == 65535, 0, (frames - 40.0) / gain),
        rtol=1e-5,
        atol=1e-4,
    )


def test_a_stated_gain_that_the_frames_contradict_is_doubted(
    adu: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "a.nxs", adu, gain=Stated(3.2, 40.0, 3.0))
    scan = nexus.read_scan(imported(source))
    assert scan.gain is not None
    assert scan.gain.adu_per_photon == 3.2
    assert "doubt: the header states 3.2 ADU per photon" in capsys.readouterr().out
    scan = nexus.read_scan(imported(source, gain="measure"))
    assert scan.gain is not None
    assert scan.gain.adu_per_photon == pytest.approx(1.6, rel=0.08)
    imported(source, gain=1.6)
    assert "doubt" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "the values have an offset that is not stated: set `import_scan: offset`"),
        ({"offset": 5.0}, "not at the stated offset of 5 ADU, so the gain cannot be measured"),
        ({"last_frame": 3, **DARK}, "the noise of the frames does not show it .it needs 8"),
    ],
)
def test_what_is_neither_stated_nor_visible_is_refused(
    adu: np.ndarray, tmp_path: Path, params: dict[str, Any], message: str
) -> None:
    source = written(tmp_path / "a.nxs", adu)
    with pytest.raises(HklflowError, match=message):
        imported(source, **params)
    assert not source.with_suffix(".scan").exists()


def test_counters_and_declared_photons_are_not_converted(
    adu: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counter = written(tmp_path / "a.nxs", adu, integrates=False)
    declared = written(tmp_path / "b.nxs", adu)
    rng = np.random.default_rng(1)
    photons = rng.poisson(np.linspace(5, 80, SHAPE[1]), (N, *SHAPE)).astype(np.uint16)
    seen = written(tmp_path / "c.nxs", photons)
    for source, params in ((counter, {}), (declared, {"gain": 1}), (seen, {})):
        scan = nexus.read_scan(imported(source, **params))
        assert scan.gain is None
        assert scan.underload == 0
        assert scan.saturation == 60000
        assert raw.read_variance(scan) is None
    assert "the values are photons" in capsys.readouterr().out


def test_a_detector_of_an_unknown_kind_is_judged_by_its_frames(
    adu: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without_offset = np.where(adu > 40, adu - 40, 0).astype(np.float32)
    source = written(tmp_path / "a.nxs", without_offset, integrates=None)
    scan = nexus.read_scan(imported(source))
    assert scan.gain is not None
    assert scan.gain.adu_per_photon == pytest.approx(1.6, rel=0.1)
    assert 0 < scan.gain.relative_error < 0.05
    printed = capsys.readouterr().out
    assert "the values are not photon counts: their variance over mean is" in printed
    assert "the same for all voxels, because the gain is measured" in printed
    assert nexus.read_scan(imported(source, gain=1)).gain is None
    # An offset makes the gain unknown.
    with pytest.raises(HklflowError, match="offset that is not stated"):
        imported(written(tmp_path / "b.nxs", adu, integrates=None))


def test_whole_numbers_below_0_that_are_noise_are_refused(adu: np.ndarray, tmp_path: Path) -> None:
    dark = adu.astype(np.int32) - 80
    with pytest.raises(HklflowError, match="below 0 in some frames only: an offset was subtracted"):
        imported(written(tmp_path / "a.nxs", dark, integrates=None))
    with pytest.raises(HklflowError, match="below 0 in some frames only: an offset was subtracted"):
        imported(written(tmp_path / "b.nxs", dark), gain=1.6, read_noise=3.0)
    # Flags of a photon counter may change, but have few values.
    counts = np.random.default_rng(1).poisson(20, (N, *SHAPE)).astype(np.int32)
    counts[3, :100] = -1
    scan = nexus.read_scan(imported(written(tmp_path / "c.nxs", counts, integrates=None)))
    assert scan.gain is None


@pytest.mark.parametrize("suffix", ["tif", "edf"])
def test_images_without_a_header_are_judged_by_their_frames(
    adu: np.ndarray, tmp_path: Path, suffix: str
) -> None:
    import fabio

    scan = nexus.read_scan(imported(written(tmp_path / "a.nxs", adu), gain=1))
    kind = {"tif": fabio.tifimage.TifImage, "edf": fabio.edfimage.EdfImage}[suffix]
    photons = np.random.default_rng(1).poisson(adu / 10).astype(np.uint16)
    for name, frames in (("ccd", adu), ("counter", photons)):
        for number, frame in enumerate(frames):
            kind(data=frame).write(str(tmp_path / f"{name}_{number:03d}.{suffix}"))
        pattern = str(tmp_path / f"{name}_###.{suffix}")
        header = raw.read_header(pattern)
        series = replace(scan, raw=pattern)
        if name == "counter":
            assert measured_scan(series, header, Stated(), measure=False) == (series, [])
        else:
            with pytest.raises(HklflowError, match="offset that is not stated"):
                measured_scan(series, header, Stated(), measure=False)
            found, _ = measured_scan(series, header, Stated(offset=40.0, read_noise=3.0), False)
            assert found.gain is not None
            assert found.gain.adu_per_photon == pytest.approx(1.6, rel=0.1)


def test_frames_that_are_photons_already_take_no_gain(adu: np.ndarray, tmp_path: Path) -> None:
    frames = ((adu - 40) / 1.6).astype(np.float32)
    noise = np.full(SHAPE, 3.5, np.float32)
    source = written(tmp_path / "a.nxs", frames, read_variance=noise, underload=-100.0)
    assert nexus.read_scan(imported(source)).gain is None
    with pytest.raises(HklflowError, match="frames are photons with a known read noise"):
        imported(source, gain=1.6)


def test_sums_and_blocks_have_the_offset_and_noise_of_all_readouts(
    adu: np.ndarray, tmp_path: Path
) -> None:
    stated = Stated(1.6, 40.0, 3.0)
    halves = [
        written(tmp_path / f"{i}.nxs", adu[i::2], gain=stated, monitor=np.ones(N // 2))
        for i in (0, 1)
    ]
    stage.run(
        sum_scans.main,
        inputs=sum_scans.Inputs(raw=halves),
        outputs=sum_scans.Outputs(sum=tmp_path / "sum.nxs"),
        params=sum_scans.Params(),
        threads=1,
    )
    stage.run(
        bin_frames.main,
        inputs=bin_frames.Inputs(raw=[tmp_path / "sum.nxs"]),
        outputs=bin_frames.Outputs(binned=tmp_path / "binned.nxs"),
        params=bin_frames.Params(binning=2),
        threads=1,
    )
    assert raw.read_header(tmp_path / "binned.nxs").readouts == 8
    for given in ({}, {"gain": 1.6, **DARK}):
        scan = nexus.read_scan(imported(tmp_path / "binned.nxs", binning=2, **given))
        assert scan.gain is not None
        assert scan.gain.offset == 320
        assert scan.gain.read_noise == pytest.approx(3 * np.sqrt(8))
        with raw.open_scan(scan) as opened:
            mean = np.nanmean(opened.read(0, N // 2))
        assert mean == pytest.approx(8 * (adu.mean() - 40) / 1.6, rel=0.01)


def test_headers_state_gain_offset_and_noise() -> None:
    """Values of PHOTON II and of a Rayonix header as in public examples."""
    path = Path("x")
    photon = {"CCDPARM": "1.47398 36.60 359.8295 0.0 163810.0"}
    gain = bruker_gain(Fields(path, photon, (768, 1024)))
    assert gain is not None
    assert gain.gain == pytest.approx(9.8314, rel=1e-4)
    assert gain.read_noise == pytest.approx(0.04027, rel=1e-3)
    counter = {"CCDPARM": "0 1 1 0 100000"}
    assert bruker_gain(Fields(path, counter, (768, 1024))) is None
    mar = Fields(path, {"mean_bias": 10000, "photons_per_100adu": 50}, (2048, 2048))
    assert FORMATS["MarccdImage"].gain(mar) == Stated(2.0, 10.0, None)
    adsc = "{\nHEADER_BYTES= 1024;\nIMAGE_PEDESTAL=40;\nSIZE1=3072;\n"
    assert smv._pedestal(smv.keys_of(adsc), path) == 40
    assert smv._pedestal({"DARK_PEDESTAL": "0.5"}, path) == 0.5
