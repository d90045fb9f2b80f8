"""`hklflow groups`: files of groups, and the flat field by chip that a flood gives with them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.constants import files
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.geometry import Detector, detector_to_dict
from hklflow.images.masks import MaskBit
from hklflow.images.scan import RotationScan
from hklflow.stages import counter_flood, find_peaks
from tests.truth.reflections import rotation

from .conftest import Hklflow

SHAPE, PIXEL, DISTANCE, CENTRE = (90, 120), 1e-3, 0.3, (42.0, 63.0)
FAST, SLOW = (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0)
ORIGIN = (CENTRE[1] * PIXEL, CENTRE[0] * PIXEL, DISTANCE)
MODULES = ((0, 90, 0, 58), (0, 90, 62, 120))
N = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A mask with the gap of columns 58 to 61, a geometry, and labels."""
    bits = np.zeros(SHAPE, np.uint32)
    bits[:, 58:62] = MaskBit.GAP
    nexus.write_mask(tmp_path / "mask.nxs", bits)
    nexus.write_mask(tmp_path / "other.nxs", bits.T)
    nexus.write_mask(tmp_path / "none.nxs", np.zeros(SHAPE, np.uint32))
    detector = Detector(SHAPE, (PIXEL, PIXEL), np.array(ORIGIN), np.array(SLOW), np.array(FAST))
    beam = {"wavelength_A": 0.5, "polarization": 0.99}
    data = {"detector": detector_to_dict(detector), "beam": beam}
    (tmp_path / "geometry.json").write_text(json.dumps(data))
    np.save(tmp_path / "labels.npy", np.arange(SHAPE[0])[:, None] // 30 + np.zeros(SHAPE, int))
    return tmp_path


@pytest.fixture
def chips(folder: Path, hklflow: Hklflow) -> Path:
    made = hklflow(
        "groups", "make", folder / "chips.nxs", "--by", "chip", "--chips", "3", "4",
        "--mask", folder / "mask.nxs", "--geometry", folder / "geometry.json", "--serial", "7",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert made.out.startswith("24 groups by chip of 10440 pixels")
    return folder / "chips.nxs"


def labels() -> np.ndarray:
    """Number of each pixel's chip, written out by hand; -1 in the gap."""
    number = np.full(SHAPE, -1)
    for m, (_, _, f0, _) in enumerate(MODULES):
        for i in range(3):
            for j, (a, b) in enumerate(((0, 15), (15, 29), (29, 44), (44, 58))):
                number[30 * i : 30 * i + 30, f0 + a : f0 + b] = 12 * m + 4 * i + j
    return number


def flood(path: Path, factors: np.ndarray, seed: int = 3) -> Path:
    """100 frames of 10 counts: isotropic light on a plate, of which a pixel takes cos³ 2θ."""
    slow, fast = np.indices(SHAPE) + 0.5
    away = np.hypot(slow - CENTRE[0], fast - CENTRE[1]) * PIXEL / DISTANCE
    response = np.where(labels() < 0, 0.0, factors[labels()])
    frames = np.random.default_rng(seed).poisson(
        10.0 * (1 + away**2) ** -1.5 * response, (100, *SHAPE)
    )
    bits = np.where(labels() < 0, np.uint32(MaskBit.GAP), np.uint32(0))
    header = {
        "pixel_size": (PIXEL, PIXEL), "origin": ORIGIN, "slow": SLOW, "fast": FAST,
        "wavelength": 0.5, "axis_names": ("phi",), "axes": [(-1.0, 0.0, 0.0)], "angles": [0.0],
        "start": 0.0, "step": np.radians(0.5), "exposure": 1e-3, "polarization": 0.99,
        "monitor": np.ones(len(frames)),
    }  # fmt: skip
    with NXmxWriter(
        path, NXmxHeader(shape=SHAPE, n_frames=len(frames), pixel_mask=bits, **header)
    ) as writer:
        writer.append(frames.astype(np.uint32))
    return path


def test_a_file_of_groups_tells_what_it_is(chips: Path, folder: Path, hklflow: Hklflow) -> None:
    groups = nexus.read_groups(chips)
    assert np.array_equal(groups.labels, labels() + 1)
    assert groups.rule == {"by": "chip", "chips": [3, 4]}
    made = groups.fingerprint
    assert (made["shape"], made["serial"]) == ([90, 120], "7")
    assert made["geometry"]["sha256"] == stage.fingerprint(folder / "geometry.json")
    shown = hklflow("groups", "show", chips, "--mask", folder / "mask.nxs")
    rows = [line.split("\t") for line in shown.out.splitlines()[2:]]
    assert rows[:2] == [["number", "group", "pixels", "good"],
                        ["1", "module 00 chip 00", "450", "450"]]  # fmt: skip
    assert json.loads(hklflow("groups", "show", chips, "--json").out)["groups"][23]["pixels"] == 420


def test_each_rule_makes_a_file(folder: Path, hklflow: Hklflow) -> None:
    geometry, mask = ("--geometry", folder / "geometry.json"), ("--mask", folder / "mask.nxs")
    for by, options, n in (
        ("module", mask, 2),
        ("module", ("--detector", "Pilatus 1M"), 10),
        ("quadrant", (*mask, "--centre", "42", "63"), 4),
        ("sector", (*geometry, *mask, "--sectors", "6", "--first", "15"), 6),
        ("band", (*geometry, "--q", "0.5", "1", "2"), 2),
        ("band", (*geometry, "--two-theta", "2", "4", "6", "8"), 3),
        ("image", ("--image", folder / "labels.npy", *mask), 2),
    ):
        file = folder / f"{by}{n}.nxs"
        made = hklflow("groups", "make", file, "--by", by, *options)
        assert (made.code, made.err.count("Error")) == (0, 0), made.err
        assert len(nexus.read_groups(file).names) == n
    assert "note: 3480 good pixels are in no group" in made.err


def test_what_does_not_fit_is_refused_and_nothing_is_written(
    chips: Path, folder: Path, hklflow: Hklflow
) -> None:
    geometry = ("--geometry", folder / "geometry.json")
    new = folder / "new.nxs"
    for options, words in (
        (("--by", "chip", "--mask", folder / "mask.nxs"), "chips of a module of 90 x 58 pixels"),
        (("--by", "module"), "the detector is not known"),
        (("--by", "module", *geometry), "the modules are not known"),
        (("--by", "sector", "--mask", folder / "mask.nxs", "--sectors", "3"), "give --geometry"),
        (("--by", "sector", *geometry), "needs --sectors"),
        (("--by", "band", *geometry), "give --q or --two-theta"),
        (("--by", "band", *geometry, "--q", "90", "91"), "no pixel is in a group by band"),
        (("--by", "image"), "needs --image"),
        (("--by", "quadrant", *geometry, "--sectors", "3"), "--sectors is for --by sector"),
        (("--by", "quadrant", *geometry, "--mask", folder / "other.nxs"), "the shapes .* differ"),
        (("--by", "image", "--image", folder / "labels.npy", "--mask", folder / "other.nxs"),
         r"for a detector of \(90, 120\) pixels .*, and the frames have \(120, 90\)"),
    ):  # fmt: skip
        done = hklflow("groups", "make", new, *options)
        assert done.code == 2
        assert re.search(words, done.err), done.err
        assert not new.exists()
    done = hklflow("groups", "make", chips, "--by", "quadrant", *geometry)
    assert done.code == 2
    assert "exists" in done.err
    done = hklflow("groups", "show", folder / "mask.nxs")
    assert done.code == 2
    assert "is not the product that is needed here" in done.err


def test_a_flood_gives_the_factors_of_the_chips(
    chips: Path, folder: Path, hklflow: Hklflow
) -> None:
    """1000 counts of a pixel are 3 %; 4.5e5 of a chip are 0.15 %."""
    factors = np.random.default_rng(1).normal(1, 0.04, N)
    raw = flood(folder / "flood.nxs", factors)
    stage.run(
        counter_flood.main,
        inputs=counter_flood.Inputs(raw=[raw]),
        outputs=counter_flood.Outputs(constants=folder / "flat.nxs"),
        params=counter_flood.Params(groups=chips),
        threads=1,
    )
    part = files.read_part(folder / "flat.nxs")
    flat, errors = (np.asarray(part[name]) for name in ("flatfield", "flatfield_errors"))
    good = labels() >= 0
    true = factors / factors[labels()[good]].mean()
    first = [np.argwhere(labels() == k)[0] for k in range(N)]
    found, sigma = (np.array([image[tuple(at)] for at in first]) for image in (flat, errors))
    assert np.sqrt(np.mean((found - true) ** 2)) < 2e-3
    assert np.sqrt(np.mean(((found - true) / sigma) ** 2)) == pytest.approx(1, abs=0.45)  # 24 of it
    assert np.allclose(flat[good], found[labels()[good]])
    assert np.isnan(flat[~good]).all()
    assert part.about["groups"]["fingerprint"]["serial"] == "7"
    figures = hklflow("groups", "statistics", chips, raw, "--json")
    assert figures.code == 0, figures.err
    row = json.loads(figures.out)[5]
    assert (row["pixels"], row["good"], row["zeros"]) == (420, 420, 0)
    assert row["dispersion"] == pytest.approx(1.0, abs=0.05)


def test_a_flat_field_refuses_groups_of_another_detector(folder: Path, hklflow: Hklflow) -> None:
    raw = flood(folder / "flood.nxs", np.ones(N))
    for name, mask, words in (
        ("turned", "other", r"are for a detector of \(120, 90\) pixels"),
        ("partly", "mask", "unmasked pixels are in no group"),
    ):
        if name == "turned":
            made = hklflow("groups", "make", folder / "turned.nxs", "--by", "quadrant", "--mask",
                           folder / f"{mask}.nxs")  # fmt: skip
        else:
            made = hklflow("groups", "make", folder / "partly.nxs", "--by", "image", "--image",
                           folder / "labels.npy")  # fmt: skip
        assert made.code == 0, made.err
        with pytest.raises(HklflowError, match=words):
            stage.run(
                counter_flood.main,
                inputs=counter_flood.Inputs(raw=[raw]),
                outputs=counter_flood.Outputs(constants=folder / "flat.nxs"),
                params=counter_flood.Params(groups=folder / f"{name}.nxs"),
                threads=1,
            )
        assert not (folder / "flat.nxs").exists()


def test_the_background_of_the_frames_is_measured_in_groups(folder: Path, hklflow: Hklflow) -> None:
    """Such as without a module in the shadow of the cryostat; the scale of the frames follows."""
    geometry = rotation()
    shape = geometry.detector.shape
    ones = np.ones(geometry.scan.n_frames)
    scan = RotationScan("none", 0, geometry, ones, ones, ones, "simulated", 300.0)
    good = np.ones(shape, bool)
    half = 1 + (np.indices(shape)[1] >= shape[1] // 2)
    np.save(folder / "halves.npy", half)
    file = folder / "halves.nxs"
    made = hklflow("groups", "make", file, "--by", "image", "--image", folder / "halves.npy")
    assert made.code == 0, made.err
    params = find_peaks.Params(groups=file, background_groups=("label 2",))
    everywhere = find_peaks.background_annulus(scan, good, find_peaks.Params()).inside
    ring = find_peaks.background_annulus(scan, good, params)
    assert np.array_equal(ring.inside, everywhere & (half == 2))
    assert "in the groups label 2" in ring.sentence
    with pytest.raises(HklflowError, match="no group of pixels 'label 3'"):
        find_peaks.background_annulus(
            scan, good, params.model_copy(update={"background_groups": ("label 3",)})
        )
    with pytest.raises(HklflowError, match="`groups` gives no file"):
        find_peaks.background_annulus(scan, good, params.model_copy(update={"groups": None}))
    with pytest.raises(HklflowError, match=r"groups label 2 .* have no good pixel"):
        find_peaks.background_annulus(scan, half == 1, params)
