"""What `hklflow check` knows of products that do not exist yet."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.formats.exposures import read_exposures, read_first
from hklflow.formats.header import Header
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan
from hklflow.images.scan import RotationScan
from hklflow.stage.rehearsal import FrameFacts, Known, ScanFacts
from hklflow.stages import absorption, find_peaks

SHAPE = (70, 90)


def test_equal_keys_share_a_result_and_a_refusal() -> None:
    known, made = Known(), []

    def make() -> int:
        made.append(1)
        return 7

    def refuse() -> int:
        made.append(1)
        raise HklflowError("the mask is of another detector; give its own")

    assert [known.once("a", make) for _ in range(3)] == [7, 7, 7]
    for _ in range(3):
        with pytest.raises(HklflowError, match="another detector"):
            known.once("b", refuse)
    assert len(made) == 2


def test_images_are_forgotten_and_facts_stay() -> None:
    mask, raw = Path("mask.nxs"), Path("raw.nxs")
    header = Header(wavelength=0.5, pixel_mask=np.zeros(SHAPE, bool))
    facts = FrameFacts((3, *SHAPE), np.dtype(np.uint16), header)
    known = Known({mask: np.ones(SHAPE, bool), raw: facts, Path("x.json"): {"a": 1}})
    known.forget_images([mask, raw, Path("x.json"), Path("unknown")])
    assert known.bad(mask) is None
    kept = known.products[raw].header
    assert (kept.wavelength, kept.pixel_mask) == (0.5, None)
    assert known.products[Path("x.json")] == {"a": 1}


def test_of_many_exposures_only_the_first_is_read(tmp_path: Path) -> None:
    stack = np.arange(5 * 12, dtype=np.uint16).reshape(5, 3, 4)
    with h5py.File(tmp_path / "dark.h5", "w") as file:
        file["entry/data/data"] = stack
        file["one"] = stack[2]
    image, n, _ = read_first(tmp_path / "dark.h5", None)
    assert n == 5
    assert (image == stack[0]).all()
    total, n, _ = read_exposures(tmp_path / "dark.h5", None, "sum")
    assert n == 5
    assert (total == stack.sum(axis=0)).all()
    assert read_first(tmp_path / "dark.h5", "/one")[1] == 1


def scan() -> RotationScan:
    detector = Detector(
        SHAPE,
        (1e-3, 1e-3),
        np.array([0.045, 0.035, 0.1]),
        np.array([0.0, -1.0, 0.0]),
        np.array([-1.0, 0.0, 0.0]),
    )
    goniometer = Goniometer(("phi",), np.array([[-1.0, 0.0, 0.0]]), np.array([0.0]), 0)
    rotation = Rotation(Beam(0.5, 0.99), detector, goniometer, Scan(0.0, 0.01, 5))
    return RotationScan(
        raw="raw.nxs",
        first=0,
        rotation=rotation,
        monitor=np.ones(5),
        exposure=np.ones(5),
        attenuation=np.ones(5),
        monitor_source="file",
    )


@pytest.mark.parametrize("annulus", [(0.3, 0.8), (0.5, 0.51), (0.0, 0.02), (0.999, 1.0)])
def test_a_few_pixels_never_pass_an_annulus_that_the_job_refuses(
    annulus: tuple[float, float],
) -> None:
    rng = np.random.default_rng(1)
    params = find_peaks.Params(annulus=annulus)
    for fraction in (0.0, 0.002, 0.3, 1.0):
        good = rng.uniform(size=SHAPE) < fraction
        if find_peaks._has_pixels(scan(), good, params):
            find_peaks.background_annulus(scan(), good, params)


def of_sphere(x: float) -> tuple[float, float]:
    """Return the smallest and largest transmission of a sphere of μR = x: at 2θ = 0 and at 180°.

    Integrals over chords of l R: 3/8 ∫ l² exp(-xl) dl and 3/16 ∫ l (1 - exp(-2xl)) / x dl.
    """
    chord = np.linspace(0, 2, 2001)
    forward = 3 / 8 * chord**2 * np.exp(-x * chord)
    back = -3 / 16 * chord * np.expm1(-2 * x * chord) / x
    low, high = (float(np.trapezoid(values, chord)) for values in (forward, back))
    return low, high


@pytest.mark.parametrize(
    ("shape", "smallest", "largest", "doubtful"),
    [
        ({"kind": "sphere", "radii": [0.1]}, 0.1, 0.1, False),
        ({"kind": "sphere", "radii": [1e-4]}, 1e-4, 1e-4, True),
        ({"kind": "unknown", "size": [2e-4, 0.2]}, 1e-4, 0.1, False),
        ({"kind": "unknown", "size": [1e-4, 2e-4]}, 5e-5, 1e-4, True),
    ],
)
def test_the_transmission_is_known_before_the_run(
    shape: dict[str, object], smallest: float, largest: float, doubtful: bool
) -> None:
    """`hklflow check` notes its range, and says if micrometres may have been meant."""
    path, unused = Path("scan.nxs"), Path("unused")
    facts = FrameFacts((5, *SHAPE), np.dtype(np.uint16), Header(wavelength=0.5))
    known = Known({path: ScanFacts(scan(), facts, calibrated=True)})
    params = absorption.Params.model_validate({"shape": shape, "mu": 10.0, "title": "hexa"})
    absorption.rehearse(
        inputs=absorption.Inputs(orientation=unused, scans=[path]),
        outputs=absorption.Outputs(absorption=unused, picture=unused, metrics=unused),
        params=params,
        known=known,
    )
    note, *doubts = known.notes
    sentence = r"transmission (.*) to (.*) \(μ 10 1/mm, largest extent (.*) mm\)"
    match = re.fullmatch(f"hexa: {sentence} over all directions", note)
    assert match
    low, high, extent = map(float, match.groups())
    assert low == pytest.approx(of_sphere(10 * largest)[0], rel=0.01)
    # None of the random rays is close to 180°.
    assert high == pytest.approx(of_sphere(10 * smallest)[1], rel=0.06)
    assert extent == pytest.approx(2 * largest, rel=1e-3)
    told = ["the crystal absorbs next to nothing" in doubt for doubt in doubts]
    assert told == [True] * doubtful
