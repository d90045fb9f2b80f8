import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.simulation import frames as simulate
from hklflow.simulation.frames import (
    GAP_VALUE,
    Background,
    Cosine,
    CrystalModel,
    DetectorModel,
    Diffuse,
    GoniometerModel,
    Ridge,
    ScanModel,
    Simulation,
    Superlattice,
    module_gaps,
)
from hklflow.simulation.models import allowed

SOURCES = Path(simulate.__file__).parent
SHAPE, GAPS = module_gaps((2, 2), (40, 44), (5, 3))
DETECTOR = DetectorModel(
    SHAPE,
    0.04,
    (42.0, 47.0),
    tilt=(0.05, -0.03),
    in_plane=0.02,
    sensor_thickness=450e-6,
    sensor_attenuation=2000.0,
)
GONIOMETER = GoniometerModel(
    ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0)), (0.3, 0.0), ("omega", "phi"), scan=1
)
SCAN = ScanModel(0.1, 0.02, 30, 0.3, flux=40.0, exposure=0.5, drift=-0.2)
CRYSTAL = CrystalModel(
    (4.75, 4.75, 12.99, 90.0, 90.0, 120.0), (0.3, 0.2, -0.5), scale=2e-2, mosaic=0.02
)
HEXAGON = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0))
DIFFUSE = Diffuse(
    flat=1.0,
    cosines=tuple(Cosine(0.2, t) for t in HEXAGON),
    ridges=(
        Ridge(2.0, HEXAGON, 0.05, "gaussian", centre=(1 / 3, 1 / 3, 0)),
        Ridge(0.1, (*HEXAGON, (0.0, 0.0, 1.0)), 0.03, thermal=True, q_squared=True),
    ),
)
BACKGROUND = Background(air=3.0, air_angle=0.1, compton=0.5, compton_q=6.0)
FULL = Simulation(DETECTOR, GONIOMETER, SCAN, CRYSTAL, DIFFUSE, BACKGROUND)
BRAGG = replace(FULL, diffuse=Diffuse(), background=Background())
PHANTOM = replace(FULL, crystal=replace(CRYSTAL, scale=0.0), background=Background())


def test_module_gaps():
    assert SHAPE == (85, 91)
    mask = replace(DETECTOR, gaps=GAPS).gap_mask
    np.testing.assert_array_equal(np.flatnonzero(mask[0]), [44, 45, 46])
    np.testing.assert_array_equal(np.flatnonzero(mask[:, 0]), [40, 41, 42, 43, 44])


def test_flat_s_gives_the_norm():
    flat = replace(PHANTOM, diffuse=Diffuse(flat=1.0))
    np.testing.assert_allclose(flat.expected(3, 7), flat.norm(3, 7), rtol=1e-14)


def test_norm_is_the_product_of_its_factors():
    scan = replace(SCAN, transmission=tuple(np.linspace(0.5, 0.9, 30)), attenuator=0.25)
    norm = replace(FULL, scan=scan).norm(10, 11)[0]
    # Longhand, at one pixel.
    i, j = 12, 70
    place = (
        DETECTOR.origin + (i + 0.5) * 172e-6 * DETECTOR.slow + (j + 0.5) * 172e-6 * DETECTOR.fast
    )
    r = np.sqrt(place @ place)
    cos = place @ np.cross(DETECTOR.fast, DETECTOR.slow) / r
    solid = (cos / r**2) / (1 / DETECTOR.distance**2)
    x, y = place[:2] / r
    polarization = 0.99 * (1 - x**2) + 0.01 * (1 - y**2)
    efficiency = 1 - np.exp(-450e-6 * 2000.0 / cos)
    monitor = 40.0 * 0.5 * (1 - 0.2 * 10.5 / 30)
    transmission = 0.5 + 0.4 * 10 / 29
    expected = monitor * transmission * 0.25 * solid * polarization * efficiency
    assert norm[i, j] == pytest.approx(expected, rel=1e-12)


def test_factors_can_be_switched_off():
    bare = replace(
        PHANTOM,
        detector=replace(DETECTOR, sensor_thickness=None),
        scan=replace(SCAN, solid_angle=False, polarization=None, drift=0.0),
    )
    np.testing.assert_array_equal(bare.norm(), 20.0)


def test_diffuse_is_s_of_hkl_at_the_pixel_centre():
    frames = [0, 17]
    slow, fast = np.indices(SHAPE) + 0.5
    for z in frames:
        hkl = PHANTOM.hkl(np.full(slow.size, z + 0.5), slow.ravel(), fast.ravel())
        expected = PHANTOM.s_of_hkl(hkl).reshape(SHAPE) * PHANTOM.norm(z, z + 1)[0]
        # The kernel's series for the cosine is good to 1e-14 of amplitudes of order 1;
        # Ridges divide by their squared width.
        np.testing.assert_allclose(PHANTOM.expected(z, z + 1)[0], expected, rtol=1e-10)


def test_sub_samples_are_averages():
    fine = replace(PHANTOM, n_sub=(2, 3, 2))
    slow, fast = np.indices(SHAPE).reshape(2, -1)[:, ::97]
    mean = np.zeros(len(slow))
    for f in (0.25, 0.75):
        for a in (1 / 6, 0.5, 5 / 6):
            for b in (0.25, 0.75):
                hkl = PHANTOM.hkl(np.full(len(slow), 4 + f), slow + a, fast + b)
                mean += PHANTOM.s_of_hkl(hkl) / 12
    counts = fine.expected(4, 5)[0] / fine.norm(4, 5)[0]
    np.testing.assert_allclose(counts[slow, fast], mean, rtol=1e-10)


def test_known_values_of_s():
    s = PHANTOM.s_of_hkl(np.array([[1.0, 2.0, 0.5], [1 / 3, 1 / 3, 0.2]]))

    # At integer h, k the three cosines are 1; cos 2π/3 = cos 2π/3 = -1/2 and cos 4π/3 = -1/2.
    def ridges(hkl, l_sum):
        c = np.array([np.dot(np.subtract(hkl, (1 / 3, 1 / 3, 0)), t) for t in HEXAGON])
        gauss = 2.0 * np.exp(-0.5 * np.sum(1 - np.cos(2 * np.pi * c)) / (2 * np.pi**2 * 0.0025))
        star = 4 * np.pi / (4.75 * np.sqrt(3))
        h, k, l = hkl  # noqa: E741
        q2 = star**2 * (h * h + k * k + h * k) + (2 * np.pi * l / 12.99) ** 2
        return gauss + 0.1 * q2 / (1 + l_sum / (2 * np.pi**2 * 0.0009))

    first = 1.6 + ridges((1.0, 2.0, 0.5), 1 - np.cos(np.pi))
    second = 0.7 + ridges((1 / 3, 1 / 3, 0.2), 4.5 + 1 - np.cos(0.4 * np.pi))
    np.testing.assert_allclose(s, [first, second], rtol=1e-12)


def test_background_adds_and_has_the_stated_shape():
    quiet = replace(PHANTOM, diffuse=Diffuse(flat=1.0))
    noisy = replace(quiet, background=BACKGROUND)
    extra = (noisy.expected(2, 3) / quiet.norm(2, 3))[0] - 1
    cos = DETECTOR.pixel_rays()[..., 2]
    q2 = SCAN.k**2 * 2 * (1 - cos)
    expected = 3 * np.exp(-np.arccos(cos) / 0.1) + 0.5 * (1 - np.exp(-q2 / 36))
    np.testing.assert_allclose(extra, expected, rtol=1e-10)


def test_spots_hold_their_counts():
    peaks = BRAGG.true_peaks()
    assert peaks.clean.sum() > 20
    # No more than 3 sigma of a clean spot is cut off on any side, and the drift is small.
    ratio = peaks.recorded[peaks.clean] / peaks.counts[peaks.clean]
    assert np.all(abs(ratio - 1) < 0.015)
    # Spots whose centre is just outside add to the frames, not to the table: less than
    # half of each, and of them only those within a spot's width of the borders.
    inside = BRAGG.expected().sum()
    assert 0.9 * inside < peaks.recorded.sum() <= inside * (1 + 1e-12)


def single(peak_index=0, **changes):
    """The simulation with one reflection only, and its row."""
    peaks = BRAGG.true_peaks()
    row = np.flatnonzero(peaks.clean)[peak_index]
    spots = BRAGG._spots
    same = np.all(np.isclose(spots.position[:, 1:], [peaks.slow[row], peaks.fast[row]]), axis=1)
    simulation = replace(BRAGG, **changes)
    one = type(spots)(*(getattr(spots, f)[same] for f in spots.__dataclass_fields__))
    simulation.__dict__["_spots"] = one
    return simulation, row, peaks


@pytest.mark.parametrize("which", [0, 7, 15])
def test_centroid_width_and_counts_of_a_noiseless_spot(which):
    steady = replace(SCAN, drift=0.0)
    simulation, _, _ = single(which, scan=steady)
    peaks = simulation.true_peaks()
    assert len(peaks.frame) == 1
    mu = simulation.expected()
    total = mu.sum()
    assert total == pytest.approx(peaks.recorded[0], rel=1e-12)
    truth = [peaks.frame[0], peaks.slow[0], peaks.fast[0]]
    cut = np.abs(total / peaks.counts[0] - 1)
    for axis in range(3):
        marginal = mu.sum(axis=tuple(a for a in range(3) if a != axis))
        centre = np.arange(len(marginal)) + 0.5
        mean = marginal @ centre / total
        variance = marginal @ (centre - mean) ** 2 / total
        # Clean means within 3 sigma: 0.3 % at most may be cut off on one side.
        assert cut < 0.003
        assert mean == pytest.approx(truth[axis], abs=1e-6 + 3 * cut * peaks.sigma[0, axis] * 2)
        # A box of one pixel adds 1/12.
        wanted = peaks.sigma[0, axis] ** 2 + 1 / 12
        assert variance == pytest.approx(wanted, rel=1e-3 + 20 * cut)


def test_integral_of_s_over_a_spot_is_its_intensity():
    # The sum of S times the volume of Q of each pixel and frame, by a numerical Jacobian.
    simulation, _, _ = single(3)
    peaks = simulation.true_peaks()
    mu, norm = simulation.expected(), simulation.norm()
    z, i, j = np.nonzero(mu > 0)
    ub = simulation.ub

    def q(dz, ds, df):
        return simulation.hkl(z + 0.5 + dz, i + 0.5 + ds, j + 0.5 + df) @ ub.T

    e = 1e-3
    edges = [(q(*(e * v)) - q(*(-e * v))) / (2 * e) for v in np.eye(3)]
    volume = np.abs(np.einsum("ni,ni->n", edges[0], np.cross(edges[1], edges[2])))
    integral = np.sum(mu[z, i, j] / norm[z, i, j] * volume)
    fraction = peaks.recorded[0] / peaks.counts[0]
    # N and J vary over the spot (6 sigma = 6 pixels of 230 to the sample): second order.
    assert integral == pytest.approx(peaks.intensity[0] * fraction, rel=5e-3)


def test_halo_spreads_but_keeps_counts():
    halo = replace(DETECTOR, halo_fraction=0.3, halo_sigma=4.0)
    with_halo, _, _ = single(0, detector=halo)
    without, _, _ = single(0)
    a, b = with_halo.expected().sum(axis=0), without.expected().sum(axis=0)
    peaks = with_halo.true_peaks()
    assert a.sum() == pytest.approx(peaks.recorded[0], rel=1e-12)
    at = int(peaks.slow[0]), int(peaks.fast[0])
    assert a[at] < 0.8 * b[at]
    # Same frames: the profile along the scan does not change on the whole detector.
    fa, fb = with_halo.expected().sum(axis=(1, 2)), without.expected().sum(axis=(1, 2))
    np.testing.assert_allclose(fa / fa.sum(), fb / fb.sum(), rtol=1e-9, atol=1e-15)


def test_halo_minimum_spares_weak_spots():
    spared = replace(DETECTOR, halo_fraction=0.3, halo_minimum=1e12)
    np.testing.assert_array_equal(
        replace(BRAGG, detector=spared).expected(5, 8), BRAGG.expected(5, 8)
    )


def test_gaps_edges_and_scan_ends():
    detector = replace(DETECTOR, gaps=GAPS, n_dead=4)
    simulation = replace(BRAGG, detector=detector)
    peaks, all_peaks = simulation.true_peaks(), BRAGG.true_peaks()
    np.testing.assert_array_equal(peaks.hkl, all_peaks.hkl)
    assert np.all(peaks.recorded <= all_peaks.recorded * (1 + 1e-12))
    gap = detector.gap_mask[peaks.slow.astype(int).clip(0, 84), peaks.fast.astype(int).clip(0, 90)]
    assert gap.any()
    assert not peaks.clean[gap].any()
    ends = (peaks.frame < 3 * peaks.sigma[:, 0]) | (30 - peaks.frame < 3 * peaks.sigma[:, 0])
    assert ends.any()
    assert not peaks.clean[ends].any()
    for name in ("frame", "counts", "recorded", "background", "zeta"):
        assert np.isfinite(getattr(peaks, name)).all()
    mu = simulation.expected(0, 3)
    assert np.all(mu[:, ~simulation.live] == 0)
    assert np.all(simulation.norm(0, 3)[:, ~simulation.live] == 0)


def test_blocks_do_not_matter():
    whole = np.concatenate(list(FULL.frames(block=30)))
    parts = np.concatenate(list(FULL.frames(block=7)))
    np.testing.assert_array_equal(whole, parts)
    np.testing.assert_array_equal(whole[11:14], np.concatenate(list(FULL.frames(2, 11, 14))))
    assert whole.dtype == np.uint32
    other = next(replace(FULL, scan=replace(SCAN, seed=1)).frames(3))
    assert np.any(other != whole[:3])


def test_counts_are_poisson():
    mu = FULL.expected()
    n = np.concatenate(list(FULL.frames())).astype(np.float64)
    pull = (n - mu) / np.sqrt(mu)
    # 5 sigma of the mean and of the variance of `size` independent pulls.
    size = n.size
    assert abs(pull.mean()) < 5 / np.sqrt(size)
    fourth = 2 + np.mean(1 / mu)
    assert abs(pull.var() - 1) < 5 * np.sqrt(fourth / size)
    # Frames are independent of each other.
    neighbours = np.mean(pull[1:] * pull[:-1])
    assert abs(neighbours) < 5 / np.sqrt(size)


def test_gap_dead_and_hot_pixels_in_frames():
    detector = replace(DETECTOR, gaps=GAPS, n_dead=5, n_hot=6, hot_counts=500.0, seed=3)
    simulation = replace(PHANTOM, detector=detector)
    frame = next(simulation.frames(1))[0]
    assert detector.dead_mask.sum() == 5
    assert detector.hot_mask.sum() == 6
    assert not np.any(detector.gap_mask & (detector.dead_mask | detector.hot_mask))
    assert np.all(frame[detector.gap_mask] == GAP_VALUE)
    assert np.all(frame[detector.dead_mask] == 0)
    assert np.all(frame[detector.hot_mask] > 350)
    assert frame[simulation.live & ~detector.hot_mask].max() < 350


def test_negative_s_is_refused():
    wrong = replace(PHANTOM, diffuse=Diffuse(0.1, (Cosine(1.0, (1, 0, 0)),)))
    with pytest.raises(HklflowError, match="negative"):
        next(wrong.frames(1))


def test_frames_outside_the_scan_are_refused():
    with pytest.raises(HklflowError, match="30 frames"):
        FULL.expected(25, 31)


def test_transmission_of_wrong_length_is_refused():
    with pytest.raises(HklflowError, match="one per frame"):
        replace(FULL, scan=replace(SCAN, transmission=(1.0, 0.9))).norm(0, 1)


@pytest.mark.parametrize(
    ("letter", "share"), [("P", 1), ("A", 2), ("B", 2), ("C", 2), ("I", 2), ("F", 4), ("R", 3)]
)
def test_centring_keeps_its_share_and_is_a_lattice(letter, share):
    grid = np.stack(np.meshgrid(*[np.arange(6)] * 3, indexing="ij"), -1).reshape(-1, 3)
    keep = allowed(letter, grid)
    assert keep.sum() * share == 216
    kept = grid[keep]
    sums = (kept[:, None] + kept[None]).reshape(-1, 3)
    assert allowed(letter, sums).all()


def test_unknown_centring():
    with pytest.raises(HklflowError, match="unknown centring"):
        allowed("X", [[1, 0, 0]])


def test_structure_factor_of_two_atoms():
    # CsCl-like: f1 + f2 for even h + k + l, f1 - f2 for odd.
    crystal = CrystalModel(
        (4, 4, 4, 90, 90, 90), atoms=((0, 0, 0, 3.0), (0.5, 0.5, 0.5, 1.0)), b_iso=0, scale=2.0
    )
    hkl, intensity = crystal.reflections(4.0)
    even = np.rint(hkl.sum(axis=1)) % 2 == 0
    np.testing.assert_allclose(intensity[even], 2 * 16)
    np.testing.assert_allclose(intensity[~even], 2 * 4)
    assert np.linalg.norm(hkl, axis=1).max() * 2 * np.pi / 4 <= 4.0
    # All within the sphere: as many as integer points with h² + k² + l² <= 6.
    assert len(hkl) == 80


def test_debye_waller():
    crystal = CrystalModel((4, 4, 4, 90, 90, 90), b_iso=1.5, scale=1.0)
    hkl, intensity = crystal.reflections(5.0)
    s2 = np.sum(hkl**2, axis=1) / (4 * 4.0**2)
    np.testing.assert_allclose(intensity, np.exp(-2 * 1.5 * s2), rtol=1e-12)


def test_thermal_expansion_and_thermal_diffuse():
    crystal = replace(CRYSTAL, expansion=(1e-5, 1e-5, 3e-5))
    cold = replace(FULL, crystal=crystal, scan=replace(SCAN, temperature=100.0))
    np.testing.assert_allclose(
        cold.cell, [4.75 * 0.998, 4.75 * 0.998, 12.99 * 0.994, 90, 90, 120], rtol=1e-12
    )
    ridge = Ridge(0.3, HEXAGON, 0.1, thermal=True)
    warm = replace(FULL, diffuse=Diffuse(ridges=(ridge,)))
    cold = replace(warm, scan=replace(SCAN, temperature=100.0))
    at = np.array([[0.1, 0.2, 0.3]])
    assert cold.s_of_hkl(at)[0] == pytest.approx(warm.s_of_hkl(at)[0] / 3, rel=1e-12)


def test_superlattice_appears_below_the_transition():
    superlattice = Superlattice((0.5, 0.0, 0.5), t_c=250.0, ratio=0.02, beta=0.5)
    crystal = replace(CRYSTAL, b_iso=0.0, superlattice=(superlattice,))
    main, _ = crystal.reflections(4.0)
    hkl, intensity = crystal.at_temperature(125.0).reflections(12.0)
    satellite = np.any(hkl % 1 != 0, axis=1)
    assert np.all(main % 1 == 0)
    assert np.all(hkl[satellite][:, 0] % 1 == 0.5)
    assert np.all(hkl[satellite][:, 2] % 1 == 0.5)
    assert len(np.unique(hkl, axis=0)) == len(hkl)
    # 2 beta = 1: half of the ratio at half the transition temperature.
    np.testing.assert_allclose(intensity[satellite], 0.5 * 0.02 * CRYSTAL.scale)
    # One satellite for each main reflection, but for the surface of the sphere.
    assert satellite.sum() == pytest.approx((~satellite).sum(), rel=0.03)


def test_a_centred_ridge_peaks_at_allowed_points_only():
    centred = ((0.5, 0.5, 0.5), (0.5, 0.5, -0.5), (0.5, -0.5, 0.5), (-0.5, 0.5, 0.5))
    model = Diffuse(ridges=(Ridge(1.0, centred, 0.05),))
    grid = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    s = model.s(grid, 0.0)
    even = grid.sum(axis=1) % 2 == 0
    np.testing.assert_array_equal(s > 0.9, even)
    assert s[~even].max() < 0.02


def test_true_background_under_a_peak():
    # Ridges are narrow and the pixel's centre is up to half a pixel and frame away from the
    # peak: compare where S is flat, so that N and the smooth background remain.
    smooth = replace(FULL, diffuse=Diffuse(flat=1.0))
    peaks = smooth.true_peaks()
    row = np.flatnonzero(peaks.clean)
    at = tuple(np.floor([peaks.frame[row], peaks.slow[row], peaks.fast[row]]).astype(int))
    expected = replace(smooth, crystal=replace(CRYSTAL, scale=0.0)).expected()[at]
    np.testing.assert_allclose(peaks.background[row], expected, rtol=0.02)
    # On the reflections the three cosines of 0.2 are at their maximum.
    waves = replace(FULL, diffuse=replace(DIFFUSE, flat=0.0, ridges=()), background=Background())
    n = replace(waves, diffuse=Diffuse(flat=1.0)).true_peaks().background
    np.testing.assert_allclose(waves.true_peaks().background, 0.6 * n, rtol=1e-9)


def sorted_rows(peaks, frame):
    rows = np.column_stack([peaks.hkl, frame, peaks.slow, peaks.fast, peaks.counts])
    return rows[np.lexsort(np.round(rows[:, [5, 4, 3]], 6).T)]


def test_a_scan_backwards_sees_the_same_in_reverse():
    steady = replace(SCAN, drift=0.0)
    back = replace(steady, start=SCAN.start + 30 * SCAN.step, step=-SCAN.step)
    forward, reverse = (replace(BRAGG, scan=s) for s in (steady, back))
    a, b = forward.true_peaks(), reverse.true_peaks()
    np.testing.assert_allclose(
        sorted_rows(a, a.frame), sorted_rows(b, 30 - b.frame), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(forward.expected(), reverse.expected()[::-1], rtol=1e-8, atol=1e-12)


def test_a_second_turn_repeats_the_first():
    scan = replace(SCAN, drift=0.0, step=2 * np.pi / 50, n_frames=100)
    simulation = replace(BRAGG, scan=scan)
    mu = simulation.expected()
    np.testing.assert_allclose(mu[:50], mu[50:], rtol=1e-8, atol=1e-12)
    peaks = simulation.true_peaks()
    # Friedel mates and both crossings: every reflection comes as often in each turn.
    assert np.sum(peaks.frame < 50) == np.sum(peaks.frame >= 50) > 100


@pytest.mark.parametrize(
    "path", sorted(set(SOURCES.glob("*.py")) - {SOURCES / "__init__.py"}), ids=lambda p: p.name
)
def test_the_simulator_does_not_use_what_it_tests(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    rooms = ("orientation", "transform", "peaks", "images", "bragg", "geometry.lattice")
    forbidden = {"hklflow.geometry", *(f"hklflow.{room}" for room in rooms)}
    assert "numpy" in imported
    assert not {name for name in imported if name in forbidden}
    assert not {name for name in imported if name.startswith("hklflow.geometry.rotation")}


@pytest.mark.parametrize(
    ("thickness", "attenuation", "stated"),
    [
        (450e-6, 2000.0, None),
        (450e-6, None, None),
        (None, None, "Si"),
        # Si at 20 keV in the tables of NIST: 4.464 cm²/g, 2.33 g/cm³.
        (450e-6, 1040.11, "Si"),
    ],
)
def test_the_raw_file_names_a_material_only_if_it_gives_the_sensor(thickness, attenuation, stated):
    detector = replace(DETECTOR, sensor_thickness=thickness, sensor_attenuation=attenuation)
    scan = replace(SCAN, wavelength=12.398419843 / 20)
    assert replace(FULL, detector=detector, scan=scan).raw_header()["sensor_material"] == stated
