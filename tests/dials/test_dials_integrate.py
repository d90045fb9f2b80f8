"""Integration by DIALS in our unit, against simulated truth."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from hklflow import geometry
from hklflow.base.errors import HklflowError
from hklflow.bragg.measurement import Measurement
from hklflow.bragg.reflections import ReflectionFlag, Reflections
from hklflow.dials.integrate import _norm
from hklflow.dials.programs import Dials
from hklflow.geometry import symmetry
from hklflow.images.scan import RotationScan
from hklflow.simulation.frames import (
    GAP_VALUE,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    ScanModel,
    Simulation,
    TruePeaks,
)
from tests.truth import bragg_scans as simulated
from tests.truth.defaults import integrate_with_dials

pytestmark = pytest.mark.slow

GROUP = "P 6/m m m"
CUT = ReflectionFlag.PARTIAL | ReflectionFlag.LONG | ReflectionFlag.MASKED | ReflectionFlag.EDGE


def simulate() -> Simulation:
    """Wide polarisation, drifting beam, tilted thick sensor and a gap: norms that matter."""
    return Simulation(
        DetectorModel(
            (160, 170),
            0.1,
            (77.0, 88.0),
            (6e-4, 6e-4),
            (0.03, -0.02),
            gaps=((0, 160, 60, 64),),
            sensor_thickness=4.5e-4,
            sensor_attenuation=1500.0,
        ),
        GoniometerModel(((0.0, 0.0, 1.0), (-1.0, 0.0, 0.0)), (0.4, 0.0), ("chi", "phi"), 1),
        ScanModel(-0.6, np.radians(0.5), 120, 0.6, polarization=0.9, flux=3.0, drift=0.4, seed=5),
        CrystalModel(
            (7.1, 7.1, 10.3, 90.0, 90.0, 120.0),
            orientation=(0.4, -0.3, 0.9),
            atoms=((0.0, 0.0, 0.0, 1.0), (0.31, 0.17, 0.23, 0.6)),
            b_iso=1.2,
            scale=0.05,
            mosaic=np.radians(0.3),
            spot_sigma=(0.9, 1.1),
        ),
        Diffuse(flat=0.05),
    )


def measured(simulation: Simulation) -> tuple[Measurement, RotationScan]:
    header = simulation.raw_header()
    rotation = geometry.Rotation(
        geometry.Beam(header["wavelength"], header["polarization"]),
        geometry.Detector(*(header[n] for n in ("shape", "pixel_size", "origin", "slow", "fast"))),
        geometry.Goniometer(
            header["axis_names"], header["axes"], header["angles"], header["scan_axis"]
        ),
        geometry.Scan(header["start"], header["step"], header["n_frames"]),
    )

    def blocks() -> Iterator[Any]:
        return simulation.frames(16)

    n = rotation.scan.n_frames
    # The simulator's norm of one frame holds the frame's factor.
    pixels = simulation.norm(0, 1)[0] / simulation.scan.frame_factor[0]
    measurement = Measurement(
        rotation, pixels, simulation.scan.frame_factor, blocks, invalid_from=float(GAP_VALUE)
    )
    ones = np.ones(n)
    return measurement, RotationScan("simulated", 0, rotation, ones, ones, ones, "none")


@pytest.fixture(scope="module")
def integrated(dials: Dials) -> tuple[Reflections, TruePeaks, np.ndarray, np.ndarray]:
    """Table of DIALS, truth, and rows of both that are one reflection."""
    simulation = simulate()
    measurement, scan = measured(simulation)
    table = integrate_with_dials(measurement, scan, simulation.ub, symmetry.space_group(GROUP))
    truth = simulation.true_peaks()
    tree = cKDTree(np.c_[truth.frame, truth.slow, truth.fast])
    away, nearest = tree.query(np.c_[table.frame, table.slow, table.fast])
    same = (away < 0.01) & np.all(truth.hkl[nearest] == table.hkl, axis=1)
    return table, truth, np.flatnonzero(same), nearest[same]


@pytest.mark.dials
def test_every_whole_reflection_is_there(integrated: Any) -> None:
    table, truth, rows, matched = integrated
    assert len(rows) > 300
    wanted = truth.clean & (truth.zeta > 0.15)
    assert np.isin(np.flatnonzero(wanted), matched).mean() > 0.97
    # Predicted from our model: the same centre and Lorentz factor.
    assert np.allclose(table.zeta[rows], truth.zeta[matched], atol=1e-9)
    assert np.all(np.diff(table.frame) >= 0)


@pytest.mark.dials
@pytest.mark.parametrize("estimate", ["sum", "profile"])
def test_intensities_are_in_our_unit(integrated: Any, estimate: Any) -> None:
    table, truth, rows, matched = integrated
    part = table.select(rows)
    value, sigma = part.intensity(estimate)
    use = truth.clean[matched] & ~part.has(CUT) & np.isfinite(value)
    value, sigma, true = value[use], sigma[use], truth.intensity[matched][use]
    strong = true > 30 * sigma
    assert strong.sum() > 50
    # DIALS counts what is within three standard deviations of its profile.
    assert np.median(value[strong] / true[strong]) == pytest.approx(1.0, abs=0.015)
    assert np.corrcoef(value, true)[0, 1] > 0.998
    weak = true < 15 * sigma
    pull = (value - true)[weak] / sigma[weak]
    assert 0.75 < np.std(pull) < 1.25
    # Neither resolution, nor time, nor the place on the detector matter: the norm is ours.
    ratio = value[strong] / true[strong]
    for name in ("d", "frame", "slow", "fast"):
        x = getattr(part, name)[use][strong]
        low, high = ratio[x < np.median(x)], ratio[x >= np.median(x)]
        assert np.median(low) == pytest.approx(np.median(high), abs=0.02), name


@pytest.mark.dials
def test_cut_reflections_are_flagged(integrated: Any) -> None:
    table, truth, rows, matched = integrated
    part = table.select(rows)
    at_end = (truth.frame - 2 * truth.sigma[:, 0] < 0)[matched]
    assert at_end.sum() > 3
    assert np.all(part.has(ReflectionFlag.PARTIAL)[at_end])
    # What DIALS leaves out is not in the table.
    in_gap = (np.abs(truth.fast - 62) < 3.5)[matched]
    assert np.sum(np.abs(truth.fast - 62) < 3.5) > 10
    assert np.all(part.has(ReflectionFlag.MASKED)[in_gap])
    assert part.has(ReflectionFlag.MASKED).any()
    assert part.has(ReflectionFlag.MASKED).mean() < 0.3
    background = part.background[~part.has(CUT)]
    assert np.median(background) == pytest.approx(0.05, rel=0.1)


@pytest.mark.dials
def test_an_orientation_of_another_crystal_is_a_sentence(dials: Dials) -> None:
    simulation = simulate()
    measurement, scan = measured(simulation)
    with pytest.raises(HklflowError, match="is at a reflection of the model"):
        integrate_with_dials(measurement, scan, 30 * simulation.ub, symmetry.space_group("P 1"))


@pytest.mark.dials
def test_read_noise_is_refused(dials: Dials) -> None:
    simulation = simulate()
    measurement, scan = measured(simulation)
    with pytest.raises(HklflowError, match="from an integrating detector"):
        integrate_with_dials(
            measurement,
            replace(scan, underload=-5.0),
            simulation.ub,
            symmetry.space_group(GROUP),
        )


def test_the_norm_is_that_of_all_frames_of_a_reflection() -> None:
    """An attenuator that moves, and a monitor that jitters, within rocking curves."""
    rng = np.random.default_rng(3)
    made = simulated.measurement(simulated.scan("hexagonal"))
    factor = rng.uniform(0.5, 2.0, 160)
    frame, sigma = rng.uniform(20, 140, 400), rng.uniform(0.4, 3.0, 400)
    ends = np.stack([np.floor(frame - 3 * sigma), np.floor(frame + 3 * sigma) + 1], axis=1)
    at = (frame, *np.full((2, 400), 60.5), ends.astype(np.int64))
    fine = np.linspace(-4, 4, 4001)
    weight = np.exp(-0.5 * fine**2)
    own = factor[np.floor(frame[:, None] + sigma[:, None] * fine).astype(int)]
    expected = made.pixel_norm[60, 60] * (own * weight).sum(axis=1) / weight.sum()
    norm = _norm(replace(made, frame_norm=factor), *at)
    # DIALS's boxes are whole frames: they tell the width of the rocking curve roughly.
    assert np.std(norm / expected) < 0.03
    centre = made.pixel_norm[60, 60] * factor[frame.astype(int)]
    assert np.std(centre / expected) > 0.1
    # A frame without a norm spoils the reflections on it and no other.
    factor[80] = 0.0
    spoilt = np.isnan(_norm(replace(made, frame_norm=factor), *at))
    off = np.maximum(np.abs(frame - 80.5) - 0.5, 0) / sigma
    assert spoilt[off < 1.5].all()
    assert not spoilt[off > 4].any()
