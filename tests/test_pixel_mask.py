"""The stage that makes the pixel mask, on raw frames whose defects are known."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pyFAI.detectors import detector_factory

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.constants import files
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.images.masks import MaskBit
from hklflow.stages import import_scan, pixel_mask

N = 80
FLAG = 2**32 - 1


def write_scan(folder: Path, counts: np.ndarray, gaps: np.ndarray) -> Path:
    shape = counts.shape[1:]
    with NXmxWriter(
        folder / "raw.nxs",
        NXmxHeader(
            shape=shape,
            pixel_size=(1e-3, 1e-3),
            origin=(0.02, 0.02, 0.1),
            slow=(0.0, -1.0, 0.0),
            fast=(-1.0, 0.0, 0.0),
            wavelength=0.5,
            axis_names=("phi",),
            axes=[(-1.0, 0.0, 0.0)],
            angles=[0.0],
            start=0.0,
            step=np.radians(0.5),
            n_frames=len(counts),
            exposure=0.1,
            monitor=np.full(len(counts), 100.0),
            pixel_mask=gaps.astype(np.uint32),
            polarization=0.99,
        ),
    ) as writer:
        writer.append(counts)
    stage.run(
        import_scan.main,
        inputs=import_scan.Inputs(raw=[folder / "raw.nxs"]),
        outputs=import_scan.Outputs(scan=folder / "scan.nxs"),
        params=import_scan.Params(),
        threads=1,
    )
    return folder


def masked(folder: Path, **params: Any) -> np.ndarray:
    stage.run(
        pixel_mask.main,
        inputs=pixel_mask.Inputs(scan=folder / "scan.nxs"),
        outputs=pixel_mask.Outputs(
            mask=folder / "mask.nxs", picture=folder / "mask.png", metrics=folder / "mask.json"
        ),
        params=pixel_mask.Params(**params),
        threads=1,
    )
    return nexus.read_mask(folder / "mask.nxs")


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of 60 x 70 pixels with one of each defect."""
    rng = np.random.default_rng(1)
    rate = np.full((N, 60, 70), 8.0)
    slow, fast = np.mgrid[:60, :70]
    for y, x, z in rng.uniform(0, 1, (60, 3)) * (60, 70, N):  # reflections
        spot = np.exp(-((slow - y) ** 2 + (fast - x) ** 2) / 1.5)
        rocking = np.exp(-((np.arange(N) - z) ** 2) / 2)
        rate += 3000 * rocking[:, None, None] * spot
    rate[:, 20, 30] = 400  # hot
    rate[:, 25, 35] = 0  # dead
    rate[:, 45, 50] = rng.gamma(1.0, 12.0, N)  # noisy, at the level of the others
    counts = rng.poisson(rate).astype(np.uint32)
    counts[:, 40, 10] = 50  # stuck
    gaps = np.zeros((60, 70), bool)
    gaps[:, 33:35] = True
    counts[:, gaps] = FLAG
    counts[:, 5, 6] = FLAG  # a pixel that was switched off after the mask was made
    return write_scan(tmp_path_factory.mktemp("scan"), counts, gaps)


DEFECTS = {(20, 30): 8, (25, 35): 2, (45, 50): 16, (40, 10): 8, (5, 6): 1}


def test_every_defect_has_its_bit_and_nothing_else_has(scan: Path) -> None:
    bits = masked(scan)
    assert (bits[:, 33:35] == MaskBit.GAP).all()
    bits[:, 33:35] = 0
    assert {tuple(map(int, at)): int(bits[tuple(at)]) for at in np.argwhere(bits)} == DEFECTS
    bits = masked(scan, find_defects=False)
    assert (bits != 0).sum() == 2 * 60 + 1


def test_the_file_says_what_its_bits_mean(scan: Path) -> None:
    masked(scan)
    with h5py.File(scan / "mask.nxs") as file:
        attrs = file["entry/mask/pixel_mask"].attrs
        meanings = dict(zip(attrs["bit_values"].tolist(), attrs["bit_meanings"], strict=True))
    # As NXmx has them: bits 0 to 4, 6, 8 and 31.
    assert list(meanings) == [1 << bit for bit in (0, 1, 2, 3, 4, 6, 8, 31)]
    words = ("gap", "dead", "under", "over", "noisy", "cluster", "user", "virtual")
    assert all(word in meaning for word, meaning in zip(words, meanings.values(), strict=True))


def test_edges_image_shapes_and_the_mask_file_in_this_order(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.zeros((60, 70))
    image[10:20, 50:60] = 1
    np.save(tmp_path / "image.npy", image)
    np.save(tmp_path / "other.npy", image.T[:60, :])  # of another shape, (60, 60)
    shapes = [
        {"shape": "rectangle", "slow_min": 0, "slow_max": 12, "fast_min": 55, "fast_max": 70}
        | {"op": "subtract"},
        {"shape": "circle", "slow": 50.5, "fast": 20.5, "radius": 3},
    ]
    text = """
- {shape: circle, slow: 50.5, fast: 20.5, radius: 1, op: subtract}
- {shape: rectangle, slow_min: 30, slow_max: 31, fast_min: 30, fast_max: 40}
- {shape: rectangle, slow_min: 0, slow_max: 60, fast_min: 33, fast_max: 36, op: subtract}
"""
    (tmp_path / "mask.yaml").write_text(text)
    given = {"edges": 2, "image": tmp_path / "image.npy", "shapes": shapes}
    bits = masked(scan, **given, mask_file=tmp_path / "mask.yaml", find_defects=False)
    expected = np.ones((60, 70), bool)
    expected[2:58, 2:68] = False
    expected[10:20, 50:60] = True
    expected[:12, 55:] = False
    slow, fast = np.mgrid[:60, :70]
    r = np.hypot(slow - 50, fast - 20)
    expected[(r <= 3) & (r > 1)] = True
    expected[30, 30:40] = True
    expected[:, 33:36] = False
    # What the measurement flags is not freed.
    assert np.array_equal((bits & 256) != 0, expected)
    assert (bits[:, 33:35] == 1).all()
    told = capsys.readouterr().out
    assert "120 pixels that a step frees stay masked" in told
    assert "circle: 0 pixels added, 5 freed" in told
    # Both reasons stand where a step lies over a gap.
    assert (masked(scan, edges=2, find_defects=False)[0, 33:35] == 257).all()
    with pytest.raises(HklflowError, match=r"60 × 60 pixels .* 60 × 70"):
        masked(scan, image=tmp_path / "other.npy")


def test_images_of_the_mask_file_are_inputs(scan: Path, tmp_path: Path) -> None:
    folder = tmp_path / "beamline"
    folder.mkdir()
    np.save(folder / "image.npy", np.zeros((60, 70)))
    (folder / "mask.yaml").write_text("- {image: image.npy}\n")
    masked(scan, mask_file=folder / "mask.yaml")
    record = stage.provenance(scan / "mask.nxs")[-1]
    named = {field: [entry["path"] for entry in files] for field, files in record["inputs"].items()}
    assert named["mask_file"] == [str(folder / "mask.yaml")]
    assert named["mask_file_images"] == [str(folder / "image.npy")]
    # The same, relative to the folder of an experiment.
    params = pixel_mask.Params(mask_file=Path("beamline/mask.yaml"))
    found = params.paths(tmp_path)
    assert found["mask_file_images"] == [Path("beamline/image.npy")]
    (folder / "image.npy").unlink()
    with pytest.raises(HklflowError, match=r"image\.npy does not exist"):
        masked(scan, mask_file=folder / "mask.yaml")


@pytest.mark.slow
def test_gaps_of_a_named_detector(tmp_path: Path) -> None:
    """Raw files of some writers have zeros in the gaps, and no mask."""
    gaps = detector_factory("Pilatus 300k").mask != 0
    counts = np.random.default_rng(2).poisson(3.0, (12, *gaps.shape)).astype(np.uint32)
    counts[:, gaps] = 0
    folder = write_scan(tmp_path, counts, np.zeros_like(gaps))
    bits = masked(folder, detector="Pilatus 300k", sample_frames=12)
    assert np.array_equal(bits, np.where(gaps, MaskBit.GAP, 0))
    bits = masked(folder, detector="Pilatus 300k", edges=1, sample_frames=12)
    assert (bits == 0).sum() == 3 * 193 * 485
    assert ((bits == MaskBit.GAP) == gaps).all()
    with pytest.raises(HklflowError, match="1043 × 981"):
        masked(folder, detector="Pilatus 1M")


@pytest.mark.parametrize("n_frames", [1, 2, 3, 13])
def test_short_scans(tmp_path: Path, n_frames: int) -> None:
    """Every frame is sampled once, but for an odd one at the end."""
    counts = np.random.default_rng(3).poisson(50.0, (n_frames, 20, 30)).astype(np.uint32)
    counts[:, 4, 5] = 10**5
    folder = write_scan(tmp_path, counts, np.zeros((20, 30), bool))
    bits = masked(folder)
    assert np.argwhere(bits).tolist() == [[4, 5]]


def test_dead_pixels_of_a_dark_scan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """60 frames have too few counts to see them, 400 have enough; what stays too dark is told."""
    rate = np.where(np.arange(64) < 32, 0.08, 0.02)  # 32 and 8 counts per pixel
    rng = np.random.default_rng(6)
    counts = rng.poisson(np.broadcast_to(rate, (400, 64, 64))).astype(np.uint32)
    dead = rng.integers(0, 64, (40, 2))
    counts[:, *dead.T] = 0
    folder = write_scan(tmp_path, counts, np.zeros((64, 64), bool))
    bits = masked(folder)
    bright = dead[dead[:, 1] < 31]
    assert set(map(tuple, np.argwhere(bits))) >= set(map(tuple, bright))
    assert set(map(tuple, np.argwhere(bits))) <= set(map(tuple, dead))
    facts = stage.read_json(folder / "mask.json")
    assert facts["too dark for dead pixels"] == pytest.approx(0.5, abs=0.03)
    assert "dead pixels can't be seen on 50% of the detector" in facts["notes"][0]
    assert facts["notes"][0] in capsys.readouterr().out
    np.save(tmp_path / "bad.npy", counts.sum(0) == 0)
    masked(folder, image=tmp_path / "bad.npy")
    assert stage.read_json(folder / "mask.json")["notes"] == []


def test_limits_of_mean_std_and_maximum(tmp_path: Path) -> None:
    """Planted pixels that stand out in one statistic each, and by absolute limits."""
    rng = np.random.default_rng(4)
    rate = 60.0 + 0.3 * np.arange(50)[:, None] * np.ones((60, 50, 60))  # a slope
    counts = rng.poisson(rate).astype(np.uint32)
    counts[:, 10, 10] = rng.poisson(85.0, 60)  # mean: 63 expected
    counts[:, 12, 40] = rng.poisson(45.0, 60)
    counts[:, 30, 20] = 69 + 30 * rng.choice([-1, 1], 60)  # std: 30 and not 8
    counts[17, 40, 50] = 400  # maximum, in a frame that is sampled
    folder = write_scan(tmp_path, counts, np.zeros((50, 60), bool))

    def found(*limits: dict[str, Any]) -> dict[tuple[int, int], int]:
        bits = masked(folder, find_defects=False, limits=limits)
        return {(int(i), int(j)): int(bits[i, j]) for i, j in np.argwhere(bits)}

    assert found({"of": "mean", "n_sigma": 8}) == {(10, 10): 8, (12, 40): 4}
    assert found({"of": "std", "n_sigma": 9}) == {(30, 20): 16, (40, 50): 16}
    assert found({"of": "maximum", "n_sigma": 15}) == {(40, 50): 8}
    assert found({"of": "maximum", "above": 399}) == {(40, 50): 8}
    assert found({"of": "maximum", "above": 400}) == {}
    assert found({"of": "std", "above": 25}) == {(30, 20): 16, (40, 50): 16}
    rows = found({"of": "mean", "below": counts.mean(axis=0).min() + 1e-9})
    assert list(rows.values()) == [4]
    with pytest.raises(ValueError, match="give `below`, `above` or `n_sigma`"):
        pixel_mask.Params(limits=[{"of": "mean"}])


@pytest.mark.parametrize("gain", [1.0, 2.0, 0.7])
def test_dispersion_of_the_background(
    tmp_path: Path, gain: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photons times a gain have it as their dispersion, on a slope and beside reflections."""
    rng = np.random.default_rng(5)
    rate = np.full((40, 120, 130), 30.0) + np.arange(130) / 3
    slow, fast = np.mgrid[:120, :130]
    for y, x, z in rng.uniform(0, 1, (40, 3)) * (120, 130, 40):
        spot = 2000 * np.exp(-((slow - y) ** 2 + (fast - x) ** 2) / 2)
        rate[int(z)] += spot
    rate *= np.linspace(1, 0.8, 40)[:, None, None]  # the beam decays
    counts = np.rint(rng.poisson(rate) * gain).astype(np.uint32)
    folder = write_scan(tmp_path, counts, np.zeros((120, 130), bool))
    masked(folder, sample_frames=40)
    facts = stage.read_json(folder / "mask.json")
    (row,) = facts["modules"]
    assert row["slow and fast"] == [0, 120, 0, 130]
    assert abs(row["dispersion"] - gain) < 4 * row["dispersion error"] + 2e-3
    assert 0 < row["dispersion error"] < 0.012 * gain
    mean = counts.mean()
    assert row["mean"] == pytest.approx(mean, rel=0.02)
    assert row["std"] == pytest.approx(np.median(counts.std(axis=0, ddof=1)), rel=0.02)
    told = capsys.readouterr().out
    assert ("index of dispersion" in told) == (gain != 1.0)


def test_the_mask_of_the_constants_is_joined(scan: Path, tmp_path: Path) -> None:
    bits = np.zeros((60, 70), np.uint32)
    bits[3, 4], bits[20, 30] = MaskBit.UNDER_RESPONDING, MaskBit.NOISY
    write_constants(tmp_path / "constants.nxs", bits)
    found = masked(scan, constants=tmp_path / "constants.nxs")
    assert found[3, 4] == MaskBit.UNDER_RESPONDING
    # A pixel that is known to be bad is not judged again.
    assert found[20, 30] == MaskBit.NOISY
    assert found[25, 35] == MaskBit.DEAD
    write_constants(tmp_path / "constants.nxs", bits[:50])
    with pytest.raises(HklflowError, match="has \\(50, 70\\) pixels, but the frames have"):
        masked(scan, constants=tmp_path / "constants.nxs")
    write_constants(tmp_path / "constants.nxs", bits, counter=False)
    with pytest.raises(HklflowError, match="an integrating detector's modules"):
        masked(scan, constants=tmp_path / "constants.nxs")


def write_constants(path: Path, bits: np.ndarray, counter: bool = True) -> None:
    about = {"detector": "eiger", "counter": counter}
    with files.create_detector(path, "constants", about) as group:
        module = group.create_group("module_00")
        files.add_quantities(module, files.Constants(about, {"pixel_mask": files.Quantity(bits)}))
