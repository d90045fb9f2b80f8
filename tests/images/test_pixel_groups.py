"""Groups of pixels: their numbers of pixels are those of geometry; other detectors are refused."""

from dataclasses import replace

import numpy as np
import pytest
from pyFAI.geometry import Geometry

from hklflow.base.errors import HklflowError
from hklflow.calibration.detectors import known_detector
from hklflow.geometry import Beam, Detector
from hklflow.images import pixel_groups
from hklflow.images.pixel_binning import PixelBinning
from hklflow.images.pixel_groups import PixelGroups

SHAPE, PIXEL, DISTANCE = (200, 240), 200e-6, 0.25
MIDDLE = (100.0, 120.0)
WAVELENGTH = 0.5


def detector(centre: tuple[float, float] = MIDDLE, distance: float = DISTANCE) -> Detector:
    """At right angles to the beam; centre in pixels (slow, fast)."""
    fast, slow = np.array([-1.0, 0, 0]), np.array([0, -1.0, 0])
    origin = np.array([0, 0, distance]) - PIXEL * (centre[0] * slow + centre[1] * fast)
    return Detector(SHAPE, (PIXEL, PIXEL), origin, slow, fast)


def pyfai(centre: tuple[float, float] = MIDDLE) -> Geometry:
    poni = {"poni1": centre[0] * PIXEL, "poni2": centre[1] * PIXEL}
    return Geometry(
        dist=DISTANCE, **poni, pixel1=PIXEL, pixel2=PIXEL, wavelength=1e-10 * WAVELENGTH
    )


def sizes(groups: PixelGroups) -> dict[str, int]:
    return dict(zip(groups.names, groups.counts().tolist(), strict=True))


def test_modules_and_chips_of_a_pilatus() -> None:
    """Dectris: 10 modules of 195 x 487 pixels, with 2 x 8 chips of 97 x 60 and a line between."""
    known = known_detector("Pilatus 1M")
    modules = pixel_groups.by_module(known.gaps.shape, known.modules)
    assert set(sizes(modules).values()) == {195 * 487}
    assert len(modules.names) == 10
    modules.require_partition(known.gaps)
    assert ((modules.labels == 0) == known.gaps).all()
    chips = pixel_groups.by_chip(known.gaps.shape, known.modules, None)
    assert len(chips.names) == 160
    chips.require_partition(known.gaps)
    assert chips.counts().sum() == modules.counts().sum()
    s0, _, f0, _ = known.modules[0]
    for c, (i, j) in enumerate(np.ndindex(2, 8)):
        real = chips.labels[s0 + 98 * i : s0 + 98 * i + 97, f0 + 61 * j : f0 + 61 * j + 60]
        assert (real == c + 1).all()
    # Lines between chips: 7 columns and 1 row of a module.
    assert chips.counts()[:16].sum() == 16 * 97 * 60 + 487 + 7 * 194


def test_chips_of_an_eiger_and_of_ones_own() -> None:
    boxes = [(0, 514, 0, 1030)]
    eiger = pixel_groups.by_chip((514, 1030), boxes, None)
    for c, (i, j) in enumerate(np.ndindex(2, 4)):
        assert (eiger.labels[258 * i : 258 * i + 256, 258 * j : 258 * j + 256] == c + 1).all()
    own = pixel_groups.by_chip((100, 90), [(0, 100, 0, 90)], (4, 3))
    assert sizes(own) == {f"module 00 chip {c:02d}": 25 * 30 for c in range(12)}
    with pytest.raises(HklflowError, match="chips of a module of 100 x 90 pixels are not known"):
        pixel_groups.by_chip((100, 90), [(0, 100, 0, 90)], None)
    with pytest.raises(HklflowError, match="cannot have 200 x 1 chips"):
        pixel_groups.by_chip((100, 90), [(0, 100, 0, 90)], (200, 1))


def test_quadrants() -> None:
    assert set(sizes(pixel_groups.by_quadrant(SHAPE, None)).values()) == {100 * 120}
    off = pixel_groups.by_quadrant(SHAPE, (30.0, 100.5))
    assert sizes(off) == {
        "low slow low fast": 30 * 100, "low slow high fast": 30 * 140,
        "high slow low fast": 170 * 100, "high slow high fast": 170 * 140,
    }  # fmt: skip
    # A centre off the detector leaves two quadrants.
    assert list(sizes(pixel_groups.by_quadrant(SHAPE, (-5.0, 40.0))).values()) == [8000, 40000]


def test_sectors_have_the_area_of_geometry() -> None:
    """Symmetric about the beam: quarters are equal; a sector of a disc is its part of the disc."""
    square = replace(detector((100.0, 100.0)), shape=(200, 200))
    quarters = pixel_groups.by_sector(square, 4)
    assert quarters.counts().tolist() == [10000] * 4
    quarters.require_partition(np.zeros((200, 200), bool))
    chi = -np.degrees(pyfai().chiArray(SHAPE))  # the rows of this detector run downwards
    for first in (0.0, 17.0):
        twelve = pixel_groups.by_sector(detector(), 12, first)
        expected = np.floor(np.mod(chi - first, 360) / 30).astype(int) + 1
        assert (twelve.labels == expected).mean() > 0.9999  # float32 of pyFAI at the borders
        assert twelve.counts().sum() == SHAPE[0] * SHAPE[1]
    radius = np.hypot(*(np.indices(SHAPE) + 0.5 - np.array(MIDDLE)[:, None, None]))
    disc = pixel_groups.by_sector(detector(), 7).counts(radius > 90)
    assert disc == pytest.approx(np.full(7, np.pi * 90**2 / 7), abs=4 * np.sqrt(90))


def test_bands_have_the_area_of_geometry() -> None:
    """Rings of radius r = L tan 2θ have the area π (r2² - r1²)."""
    radii = np.array([20.0, 35.0, 60.0, 95.0])
    angles = np.arctan(radii * PIXEL / DISTANCE)
    bands = pixel_groups.by_band(detector(), None, np.degrees(angles))
    area = np.pi * np.diff(radii**2)
    assert bands.counts() == pytest.approx(area, abs=4 * np.sqrt(95))
    q = 4 * np.pi / WAVELENGTH * np.sin(angles / 2)
    same = pixel_groups.by_band(detector(), Beam(WAVELENGTH, 0.99), q)
    assert (same.labels != bands.labels).mean() < 1e-4
    of_pyfai = np.digitize(pyfai().qArray(SHAPE) / 10, q)  # nm⁻¹
    assert (np.where(of_pyfai == 4, 0, of_pyfai) == same.labels).mean() > 0.9999
    with pytest.raises(HklflowError, match="2, 1 of the bands do not rise"):
        pixel_groups.by_band(detector(), None, (2.0, 1.0))


def test_labels_of_ones_own() -> None:
    image = np.zeros((6, 7), np.uint8)
    image[1, :4], image[3, 2:] = 9, 4
    groups = pixel_groups.by_image(image)
    assert sizes(groups) == {"label 4": 5, "label 9": 4}
    assert (groups.select(["label 9"]) == (image == 9)).all()
    with pytest.raises(HklflowError, match=r"33 unmasked pixels are in no group .* \(0, 0\)"):
        groups.require_partition(np.zeros((6, 7), bool))
    groups.require_partition(image == 0)
    for wrong, words in ((0.5, "value 0.5"), (-1.0, "value -1"), (np.nan, "not numbers")):
        bad = image.astype(float)
        bad[0, 0] = wrong
        with pytest.raises(HklflowError, match=words):
            pixel_groups.by_image(bad)
    with pytest.raises(HklflowError, match="has only 0"):
        pixel_groups.by_image(np.zeros((3, 3)))
    with pytest.raises(HklflowError, match="no group of pixels 'label 5'; the groups are label 4"):
        groups.select(["label 5"])


def test_another_detector_is_refused() -> None:
    groups = pixel_groups.stamped(pixel_groups.by_quadrant(SHAPE, None), serial="24-0111")
    groups.require(SHAPE, serial="24-0111")
    groups.require(SHAPE, detector((10.0, 10.0)))  # quadrants do not depend on the beam
    with pytest.raises(HklflowError, match=r"\(200, 240\) pixels .* have \(240, 200\)"):
        groups.require((240, 200))
    with pytest.raises(HklflowError, match="serial number 24-0111, and this is 24-0112"):
        groups.require(SHAPE, serial="24-0112")
    beam = Beam(WAVELENGTH, 0.99)
    bands = pixel_groups.stamped(
        pixel_groups.by_band(detector(), beam, (1.0, 2.0)), detector(), beam
    )
    bands.require(SHAPE, detector((100.3, 120.0)), beam)
    with pytest.raises(HklflowError, match="moved by up to 3 pixels since the groups by band"):
        bands.require(SHAPE, detector((103.0, 120.0)), beam)
    with pytest.raises(HklflowError, match=r"made for 0\.5 Å, and the wavelength is 0\.6 Å"):
        bands.require(SHAPE, detector(), Beam(0.6, 0.99))


def test_binned_frames_and_rectangles() -> None:
    groups = pixel_groups.by_quadrant(SHAPE, (101.0, 120.0))
    binned = groups.binned(PixelBinning(2, SHAPE))
    assert binned.labels.shape == (100, 120)
    assert (binned.labels[50] == 0).all()  # the blocks of rows 100 and 101 have two quadrants
    assert binned.counts().tolist() == [50 * 60, 50 * 60, 49 * 60, 49 * 60]
    assert groups.rectangles().tolist() == [
        [0, 101, 0, 120], [0, 101, 120, 240], [101, 200, 0, 120], [101, 200, 120, 240]
    ]  # fmt: skip
    with pytest.raises(HklflowError, match="not a rectangle of pixels"):
        pixel_groups.by_sector(detector(), 5).rectangles()
