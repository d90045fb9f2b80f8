"""Reflections among maxima of the diffuse scattering."""

from pathlib import Path

import numpy as np
import pytest
from tests.truth import worlds
from tests.truth.world_scans import answered

from hklflow.orientation import sharpness


def test_the_narrowest_class_that_counts_is_the_reflections() -> None:
    rng = np.random.default_rng(1)
    width = np.concatenate([np.full(3, 0.2), rng.normal(1, 0.03, 60), rng.normal(2.2, 0.3, 700)])
    significance = np.full(len(width), 20.0)
    core = sharpness.narrow(width, significance)
    assert core is not None
    assert core[:63].all()  # hot pixels too: they are few, and rejected as outliers
    assert core[63:].mean() < 0.05
    assert sharpness.narrow(width, np.full(len(width), 5.0)) is None
    assert sharpness.narrow(width[:20], significance[:20]) is None


def test_broad_spots_that_are_well_placed_stay() -> None:
    """Spots grow with the angle at which they enter the sensor."""
    rng = np.random.default_rng(2)
    width = rng.uniform(1.0, 2.5, 2000)
    squares = rng.chisquare(3, 2000)
    core = width < 1.3
    assert sharpness.reflections(width, core, squares).all()
    beside = np.where(width > 1.8, 50 * squares, squares)
    kept = sharpness.reflections(width, core, beside)
    assert kept[width < 1.55].all()
    assert not kept[width > 2.0].any()
    # A class in which nothing has a place is no reason to stop, nor to keep what is beyond.
    gap = np.where((width > 1.56) & (width < 1.8), np.nan, beside)
    assert not sharpness.reflections(width, core, gap)[width > 2.0].any()


def turned(rng: np.random.Generator, size: np.ndarray, mosaic: float) -> np.ndarray:
    """Rocking widths (radian) of maxima as large along the rotation as on the detector."""
    return np.hypot(size, mosaic) * rng.lognormal(0, 0.15, len(size))


def test_broad_spots_with_narrow_rocking_curves_are_reflections() -> None:
    """A wide crystal, or a thick sensor, makes spots broad on the detector only."""
    rng = np.random.default_rng(3)
    mosaic, step = 1e-3, np.full(60, 2e-3)
    broad = np.arange(60) >= 30
    size = np.where(broad, 4e-3, 1e-3)
    reflections = turned(rng, np.zeros(60), mosaic)
    found = sharpness.broad_reflections(broad, size, reflections, step)
    assert found[broad].all()
    assert not found[~broad].any()
    maxima = np.where(broad, turned(rng, size, mosaic), reflections)
    assert not sharpness.broad_reflections(broad, size, maxima, step).any()
    # Some maxima among broad reflections
    few = np.arange(60) >= 50
    mixed = np.where(few, maxima, reflections)
    np.testing.assert_array_equal(
        sharpness.broad_reflections(broad, size, mixed, step), broad & ~few
    )


def test_rocking_curves_within_a_frame_say_nothing() -> None:
    broad = np.arange(60) >= 30
    size, rocking = np.where(broad, 4e-3, 1e-3), np.full(60, 1e-3)
    assert not sharpness.broad_reflections(broad, size, rocking, np.full(60, 0.02)).any()
    assert not sharpness.broad_reflections(~broad | broad, size, rocking, rocking).any()


# Widths of the maxima of 1.7, 2.1 and 6.9 spots; nine of ten reflections have one.
@pytest.mark.parametrize(
    ("system", "seed"),
    [
        ("monoclinic", 26),
        pytest.param("cubic", 21, marks=pytest.mark.slow),
        pytest.param("hexagonal", 24, marks=pytest.mark.slow),
    ],
)
def test_cell_and_orientation_among_maxima(tmp_path: Path, system: str, seed: int) -> None:
    """By all peaks together the cells are off by 36 to 126 of their errors."""
    found = answered(worlds.world("broad", system, seed, 0.9), tmp_path)
    assert found.worst < 4
    assert np.abs(found.cell_off).max() < 1e-4
    assert found.data["metrics"]["reduced chi2"] < 1.3
    assert any("maxima of the diffuse scattering, which" in w for w in found.data["warnings"])


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("plain", None),
        pytest.param("off_centre", 5e-5, marks=pytest.mark.slow),
        pytest.param("drift", 0.2, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_out_for_what_maxima_have_not_done(
    tmp_path: Path, kind: str, size: float | None
) -> None:
    found = answered(worlds.world(kind, "orthorhombic", 23, size), tmp_path)
    assert not any("which were left out" in warning for warning in found.data["warnings"])


def test_two_classes_of_widths_have_a_gap_between_them() -> None:
    rng = np.random.default_rng(3)
    spots, maxima = rng.normal(1.2, 0.05, 60), 1.2 * np.exp(rng.normal(0.55, 0.15, 300))
    for significance in (6.0, 20.0):  # also of weak peaks only
        width = np.concatenate([spots, maxima])
        limit = sharpness.gap(width, np.full(len(width), significance))
        assert limit is not None
        assert spots.max() < limit < np.quantile(maxima, 0.05)
    spread = rng.uniform(1.0, 2.5, 500)  # as of spots that enter the sensor at an angle
    assert sharpness.gap(spread, np.full(500, 20.0)) is None
    # Noise of all widths is no class.
    width = np.concatenate([rng.normal(1.2, 0.05, 900), rng.uniform(0.5, 1.1, 100)])
    assert sharpness.gap(width, np.full(1000, 20.0)) is None


# By all peaks the cells are off by 7 and 11 σ: reduced χ² of 1.6 and 1.9 did not ask for a look.
@pytest.mark.parametrize(
    ("system", "seed", "strong", "mosaic"),
    [
        pytest.param("cubic", 30040, 100.0, 0.26, marks=pytest.mark.slow),
        ("tetragonal", 30041, 240.0, 0.42),
    ],
)
def test_weak_maxima_do_not_pull_the_cell(
    tmp_path: Path, system: str, seed: int, strong: float, mosaic: float
) -> None:
    made = worlds.world("broad", system, seed, strong=strong, mosaic=mosaic)
    found = answered(made, tmp_path)
    assert found.worst < 4
    assert any("maxima of the diffuse scattering, which" in w for w in found.data["warnings"])
    broad = int(np.sum(made.peaks["origin"] == worlds.DIFFUSE))
    left = found.data["metrics"]["peaks left out"]
    assert left["broader than reflections"] == pytest.approx(broad, rel=0.05)


def test_too_few_reflections_among_maxima_are_told(tmp_path: Path) -> None:
    """The cell is off by 7 σ, and eleven reflections are too few to do better."""
    made = worlds.world("broad", "triclinic", 30038, strong=67.0, mosaic=0.39)
    found = answered(made, tmp_path)
    assert any("too few reflections for a refinement" in text for text in found.said)
