import json
from pathlib import Path

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.simulation import geometry as sg
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    GoniometerModel,
    ScanModel,
    Simulation,
)

ORACLE = Path(__file__).parents[1] / "oracles" / "dials_geometry.json"

TILTED = DetectorModel(
    (40, 52), 0.05, (14.0, 31.0), (172e-6, 120e-6), tilt=(0.21, -0.13), in_plane=0.3
)


def test_hexagonal_reciprocal_basis():
    a, c = 4.75, 12.99
    basis = sg.reciprocal_basis((a, a, c, 90, 90, 120))
    star = 4 * np.pi / (a * np.sqrt(3))
    # a* along x, b* at 60° from it in the xy plane, c* along z.
    expected = [
        [star, star / 2, 0],
        [0, star * np.sqrt(3) / 2, 0],
        [0, 0, 2 * np.pi / c],
    ]
    np.testing.assert_allclose(basis, expected, atol=1e-14)


def test_triclinic_reciprocal_basis_is_dual_and_busing_levy():
    cell = (5.1, 6.3, 7.9, 82.0, 97.0, 105.0)
    basis = sg.reciprocal_basis(cell)
    # The dual of the basis has the cell's own lengths and angles.
    real = 2 * np.pi * np.linalg.inv(basis)
    lengths = np.linalg.norm(real, axis=1)
    np.testing.assert_allclose(lengths, cell[:3], rtol=1e-13)
    unit = real / lengths[:, None]
    cosines = [unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]]
    np.testing.assert_allclose(cosines, np.cos(np.radians(cell[3:])), atol=1e-13)
    assert basis[0, 0] > 0
    assert basis[1, 1] > 0
    assert basis[2, 2] > 0
    np.testing.assert_allclose([basis[1, 0], basis[2, 0], basis[2, 1]], 0, atol=1e-14)


def test_impossible_cell():
    with pytest.raises(HklflowError, match="has no volume"):
        sg.real_axes((4, 4, 4, 60, 60, 130))


def test_rotation_is_right_handed():
    np.testing.assert_allclose(sg.turn((0, 0, 2.0), np.pi / 2).apply([1, 0, 0]), [0, 1, 0],
                               atol=1e-15)  # fmt: skip


def test_chain_applies_the_inner_axis_first():
    # y turns +z to +x, then the outer z turns +x to +y.
    quarter = np.pi / 2
    turned = sg.chain(((0, 0, 1), (0, 1, 0)), (quarter, quarter)).apply([0, 0, 1])
    np.testing.assert_allclose(turned, [0, 1, 0], atol=1e-15)


def test_crossings_lie_on_the_ewald_sphere():
    rng = np.random.default_rng(5)
    g = rng.normal(size=(200, 3)) * 3
    axis = np.array([0.6, 0.0, 0.8])
    beam = np.array([0.1, 0.2, np.sqrt(0.95)])
    k = 9.0
    angles = sg.crossings(g, axis, beam, k)
    hit = np.isfinite(angles[:, 0])
    assert 50 < hit.sum() < 200
    for column in (0, 1):
        turned = sg.turn(axis, angles[hit, column]).apply(g[hit])
        np.testing.assert_allclose(np.linalg.norm(k * beam + turned, axis=1), k, rtol=1e-12)
    # Where there is no crossing, no angle comes near: scan finely.
    for row in g[~hit][:20]:
        turned = sg.turn(axis, np.linspace(0, 2 * np.pi, 721)).apply(row)
        miss = np.linalg.norm(k * beam + turned, axis=1) - k
        assert np.all(miss > 0) or np.all(miss < 0)


def pyfai_integrator(detector):
    """Express the detector in pyFAI's frame, orientation 2: axes (up, -x, beam)."""
    from pyFAI.detectors import Detector
    from pyFAI.integrator.azimuthal import AzimuthalIntegrator

    frame = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]).T
    d1, d2 = -detector.slow, detector.fast
    axes = np.stack([d1, d2, np.cross(d1, d2)], axis=1)
    corner = detector.origin + detector.slow * detector.shape[0] * detector.pixel_size[0]
    poni = axes.T @ corner
    r = frame.T @ axes
    return AzimuthalIntegrator(
        dist=poni[2],
        poni1=-poni[0],
        poni2=-poni[1],
        rot1=np.arctan2(-r[2, 1], r[2, 2]),
        rot2=np.arcsin(r[2, 0]),
        rot3=np.arctan2(r[1, 0], r[0, 0]),
        detector=Detector(*detector.pixel_size, max_shape=detector.shape, orientation=2),
        wavelength=0.5e-10,
    )


def test_two_theta_and_azimuth_agree_with_pyfai():
    ai = pyfai_integrator(TILTED)
    rays = TILTED.pixel_rays()
    np.testing.assert_allclose(
        np.arctan2(np.hypot(rays[..., 0], rays[..., 1]), rays[..., 2]),
        ai.twoThetaArray(),
        atol=1e-12,
    )
    # pyFAI counts chi from its axis 2 (-x here) towards up.
    chi = np.arctan2(rays[..., 1], -rays[..., 0])
    np.testing.assert_allclose(np.exp(1j * chi), np.exp(1j * ai.chiArray()), atol=1e-10)


@pytest.mark.parametrize("fraction", [0.5, 0.99, 0.2])
def test_polarization_and_solid_angle_agree_with_pyfai(fraction):
    ai = pyfai_integrator(TILTED)
    rays = TILTED.pixel_rays()
    # pyFAI's arrays are single precision.
    np.testing.assert_allclose(
        TILTED.response(rays, False, fraction), ai.polarization(factor=2 * fraction - 1), rtol=1e-6
    )
    np.testing.assert_allclose(
        TILTED.response(rays, True, None), ai.solidAngleArray(TILTED.shape), rtol=1e-6
    )


def test_rays_and_project_are_inverse():
    slow, fast = np.array([0.0, 3.3, 40.0]), np.array([52.0, 7.1, 0.0])
    back = TILTED.project(TILTED.rays(slow, fast) * 3.0)
    np.testing.assert_allclose(back, [slow, fast], atol=1e-10)
    assert np.isnan(TILTED.project(np.array([0.0, 0.0, -1.0]))[0])
    np.testing.assert_allclose(TILTED.rays(*TILTED.beam_centre), [0, 0, 1], atol=1e-14)


def test_positions_agree_with_dials():
    oracle = json.loads(ORACLE.read_text())
    setup, rows = oracle["setup"], np.array(oracle["rows"])
    simulation = Simulation(
        detector=DetectorModel(
            tuple(setup["shape"]),
            setup["distance"],
            tuple(setup["foot"]),
            tuple(setup["pixel_size"]),
            tuple(setup["tilt"]),
            setup["in_plane"],
        ),
        goniometer=GoniometerModel(
            tuple(map(tuple, setup["axes"])),
            tuple(setup["angles"]),
            tuple(setup["names"]),
            setup["scan"],
        ),
        scan=ScanModel(setup["start"], setup["step"], setup["n_frames"], setup["wavelength"]),
        crystal=CrystalModel(tuple(setup["cell"]), tuple(setup["orientation"]), scale=1.0),
    )
    peaks = simulation.true_peaks()
    found = {tuple(h): [] for h in np.rint(peaks.hkl).astype(int).tolist()}
    at = np.stack([peaks.frame, peaks.slow, peaks.fast], axis=1)
    for h, row in zip(np.rint(peaks.hkl).astype(int).tolist(), at, strict=True):
        found[tuple(h)].append(row)
    for row in rows:
        candidates = np.array(found[tuple(row[:3].astype(int))])
        # DIALS works in degrees and millimetres in double precision.
        assert np.abs(candidates - row[3:6]).max(axis=1).min() < 2e-6
        ray = simulation.detector.rays(row[4], row[5])
        np.testing.assert_allclose(simulation.scan.k * ray, row[6:], atol=1e-7)
    # And DIALS has seen every reflection of the simulator up to its resolution limit of 0.9 Å.
    q = np.linalg.norm(peaks.hkl @ simulation.ub.T, axis=1)
    assert np.sum(2 * np.pi / q > 0.9) == len(rows)
