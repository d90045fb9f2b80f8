"""The worlds of a quantitative S(Q) obey their physics."""

from pathlib import Path

import gemmi
import numpy as np
import pytest
from scipy.integrate import quad
from tests.truth.quantitative import MASKED, World
from tests.truth.quantitative_absorption import (
    Absorber,
    Beam,
    Tube,
    cylinder,
    facets,
    path,
    plate,
    sphere,
)
from tests.truth.quantitative_bounds import scale_bound
from tests.truth.quantitative_catalogue import HELD_OUT, PLANS, SEEN, world
from tests.truth.quantitative_gauge import at_blocks, folded, gauge_free
from tests.truth.quantitative_structure import Crystal
from tests.truth.quantitative_write import write

from hklflow import nexus, stage
from hklflow.stages import import_scan

NONE = np.eye(3)


def rays(theta2: list[float]) -> np.ndarray:
    a = np.radians(theta2)
    return np.stack([np.sin(a), 0 * a, np.cos(a)], axis=-1)


@pytest.fixture(scope="module")
def plate_world() -> World:
    """A small one: few frames, few pixels."""
    return world("plate", 3, (60, 64), span=20.0)


@pytest.mark.parametrize("mu_r", [0.1, 0.5, 1.0, 2.0, 2.5])
def test_transmission_of_a_sphere_is_the_closed_form(mu_r: float) -> None:
    """At 0 and 180° of 2θ; the first is ∫ over chords, the second over depths."""
    T = Absorber(sphere(1.0), mu_r, n_points=1 << 15).sample(NONE, rays([0, 180]))
    x = mu_r
    ahead = 3 / (2 * x**3) * (0.5 - np.exp(-2 * x) * (0.5 + x + x**2))
    back = 3 / (4 * x) * (0.5 - (1 - (1 + 4 * x) * np.exp(-4 * x)) / (16 * x**2))
    np.testing.assert_allclose(T, [ahead, back], rtol=5e-3)
    np.testing.assert_allclose(T, [ahead, back], atol=1.2e-3)


@pytest.mark.parametrize(
    ("theta", "mu_r", "published"),
    [(45, 0.5, 0.5018), (45, 1.0, 0.2855), (45, 2.0, 0.1256), (60, 1.0, 0.3075)],
)
def test_transmission_of_a_sphere_is_the_published(
    theta: float, mu_r: float, published: float
) -> None:
    """Dwiggins, Acta Cryst. A31, 395 (1975), as polynomials of ln A in μR, to 0.2 %."""
    T = Absorber(sphere(1.0), mu_r, n_points=1 << 15).sample(NONE, rays([2 * theta]))
    np.testing.assert_allclose(T, published, rtol=3e-3)


@pytest.mark.parametrize("mu_r", [0.3, 1.0, 2.0])
def test_transmission_of_a_cylinder_is_an_integral_over_chords(mu_r: float) -> None:
    body = cylinder(1.0, 1.0, 4.0)
    T = Absorber(body, mu_r, n_points=1 << 15).sample(NONE, rays([0, 180]))

    def chord(y: float) -> float:
        return 2 * np.sqrt(1 - y**2)

    ahead = quad(lambda y: chord(y) * np.exp(-mu_r * chord(y)), -1, 1)[0] / np.pi
    back = quad(lambda y: -np.expm1(-2 * mu_r * chord(y)) / 2 / mu_r, -1, 1)[0] / np.pi
    np.testing.assert_allclose(T, [ahead, back], atol=1.2e-3)


def test_transmission_of_a_plate_is_the_closed_form() -> None:
    """Wide and normal to the beam: (e^{−μt} − e^{−μt/c}) / (μt (1/c − 1)), c = cos 2θ."""
    thin, mu, c = 0.005, 120.0, np.cos(np.radians(50))
    T = Absorber(plate(5, 5, thin), mu, n_points=1 << 12).sample(NONE, rays([0, 50]))
    x = mu * 2 * thin
    expected = [np.exp(-x), (np.exp(-x) - np.exp(-x / c)) / (x * (1 / c - 1))]
    np.testing.assert_allclose(T, expected, rtol=5e-3)


def test_paths_within_a_polyhedron_are_those_of_its_planes() -> None:
    cube = facets(np.concatenate([np.eye(3), -np.eye(3)]), np.ones(6))
    u = np.array([1.0, 1, 0]) / np.sqrt(2)
    assert path(cube.planes, cube.quadrics, np.zeros(3), u) == pytest.approx(np.sqrt(2))
    assert path(cube.planes, cube.quadrics, np.array([-3.0, -2.5, 0]), u) == pytest.approx(
        1.5 * np.sqrt(2)
    )
    assert path(cube.planes, cube.quadrics, np.array([0.0, 3.0, 0]), u) == 0


def test_factors_of_paalman_and_pings_have_their_limits() -> None:
    tube = Tube(1.2, 1.3, 2.0, 0.5)
    directions = rays([0, 30, 60])
    full = Absorber(cylinder(1.0, 1.0, 4.0), 0.8, tube=tube)
    none = Absorber(cylinder(1.0, 1.0, 4.0), 1e-9, tube=tube)
    clear = Absorber(cylinder(1.0, 1.0, 4.0), 0.8, tube=Tube(1.2, 1.3, 2.0, 0.0))
    np.testing.assert_allclose(
        none.container(NONE, directions), full.container(NONE, directions, sample=False), rtol=1e-6
    )
    bare = Absorber(cylinder(1.0, 1.0, 4.0), 0.8)
    np.testing.assert_allclose(
        clear.sample(NONE, directions), bare.sample(NONE, directions), rtol=1e-9
    )
    empty = Absorber(cylinder(1.0, 1.0, 4.0), 0.0, tube=Tube(1.2, 1.3, 2.0, 0.0))
    np.testing.assert_allclose(empty.container(NONE, directions), 1, rtol=1e-9)
    np.testing.assert_allclose(empty.sample(NONE, directions), 1, rtol=1e-9)
    assert np.all(full.container(NONE, directions) < full.container(NONE, directions, sample=False))


def test_a_small_beam_lights_its_share() -> None:
    """A Gaussian beam through a wide plate without attenuation: its area over the plate's."""
    found = Absorber(plate(2, 2, 0.1), 0.0, Beam((1.0, 1.0)), n_points=1 << 15)
    area = np.pi / (4 * np.log(2))
    np.testing.assert_allclose(found.sample(NONE, rays([0])), area / 16, rtol=0.02)
    assert found.through(NONE, (1, 1)) == pytest.approx(1)


@pytest.mark.parametrize("name", PLANS)
def test_s_has_the_symmetry_of_the_group(name: str) -> None:
    crystal: Crystal = PLANS[name].crystal
    hkl = np.random.default_rng(1).uniform(-6, 6, (300, 3))
    S = crystal.S(hkl)
    for W in crystal.group:
        np.testing.assert_allclose(crystal.S(hkl @ W), S, rtol=1e-5)
    assert S.min() > 0
    assert 4 < crystal.contrast < 12
    differ = np.abs(crystal.S(-hkl) / S - 1).max()
    assert (differ > 0.01) == (not crystal.friedel)
    atoms = sum(crystal.contents.values())
    assert 0.5 < crystal.density < 8
    assert len(crystal.atoms) <= atoms


@pytest.mark.parametrize("name", ["sphere", "small beam", "furnace"])
def test_bragg_and_diffuse_scattering_make_the_high_angle_limit(name: str) -> None:
    """⟨|F|²⟩ over reflections and D add up to Σ f², away from small angles."""
    crystal = PLANS[name].crystal
    hkl, F2 = crystal.structure_factors(14.0)
    q = np.linalg.norm(hkl @ crystal.B.T, axis=1)
    shell = q > 9
    mean = F2[shell].mean() + crystal.level(q[shell]).mean()
    assert mean == pytest.approx(crystal.limit(q[shell]).mean(), rel=0.06)
    x = np.random.default_rng(2).uniform(0, 100, (100_000, 3))
    assert crystal.shape(x).mean() == pytest.approx(1, abs=0.01)


def test_bragg_peaks_have_their_kinematic_intensity() -> None:
    """Σ over frames of a peak is |F|² λ³ / (V L Δφ Ω), Ω a pixel's solid angle."""
    w = world("plate", 3, span=30.0)
    sample, r = w._sample, 0
    hkl, F2 = w.crystal.structure_factors(float(w.q.max()))
    frame, index = sample.crossings(r, hkl, np.eye(3))
    state = [sample.state(r, f) for f in frame]
    Q = np.stack(
        [(s[0] @ s[1] @ hkl[i, :, None])[0, :, 0] for s, i in zip(state, index, strict=True)]
    )
    s = Q / w.optics.instrument.k + [0, 0, 1]
    slow, fast, _ = w.optics.instrument.pixel(np.zeros(3), s)
    lorentz = np.abs(np.cross(s, [0, 0, 1.0]) @ w.scans[r].axis)
    inner = (
        (abs(slow - 120) < 110) & (abs(fast - 128) < 115) & (abs(frame - 15) < 12) & (lorentz > 0.2)
    )
    image = np.sum([w.bragg(r, z) for z in range(30)], axis=0)
    omega = (
        w.optics.instrument.pixel_size / abs(w.optics.instrument.origin @ w.optics.normal)
    ) ** 2
    per = w.crystal.wavelength**3 / (w.crystal.volume * np.radians(1.0) * omega)
    places = np.stack([slow, fast], 1)
    checked = 0
    for i in np.argsort(-F2[index] * inner)[:40]:
        near = np.hypot(*(places - places[i]).T) < 9
        strong = F2[index] > 1e-3 * F2[index[i]]
        if not inner[i] or np.count_nonzero(near & strong) > 1:
            continue
        a, b = int(slow[i]), int(fast[i])
        total = image[a - 4 : a + 5, b - 4 : b + 5].sum()
        assert total == pytest.approx(F2[index[i]] * per / lorentz[i], rel=0.03)
        checked += 1
    assert checked > 10


def test_counts_are_poisson(plate_world: World) -> None:
    w = plate_world
    pulls = []
    for z in range(10):
        expected, frame = w.expected(0, z), w.frame(0, z)
        assert np.all(frame[w.blind] == MASKED)
        use = ~w.blind & (expected > 5)
        pulls.append((frame[use] - expected[use]) / np.sqrt(expected[use]))
    all_pulls = np.concatenate(pulls)
    n = len(all_pulls)
    assert n > 300
    assert abs(all_pulls.mean()) < 4 / np.sqrt(n)
    assert abs(all_pulls.var() - 1) < 8 / np.sqrt(n)
    np.testing.assert_array_equal(w.frame(0, 3), world("plate", 3, (60, 64), span=20.0).frame(0, 3))


def test_raw_files_say_where_everything_is(tmp_path: Path) -> None:
    """The scan file has the world's hkl at every pixel, its monitor and its attenuators."""
    w = world("plate", 3, (60, 64), span=5.0, attenuators=(1.0, 0.5))
    paths = write(w, tmp_path)
    assert [p.name for p in paths] == ["plate_300K_r1.nxs", "plate_300K_r2.nxs", "plate_empty.nxs"]
    for r in (0, 1):
        output = tmp_path / f"scan{r}.nxs"
        stage.run(
            import_scan.main,
            inputs=import_scan.Inputs(raw=[paths[r]]),
            outputs=import_scan.Outputs(scan=output),
            params=import_scan.Params(),
            threads=1,
        )
        scan = nexus.read_scan(output)
        i, j = np.indices(w.shape)[:, ::7, ::7] + 0.5
        found = scan.rotation.hkl(w.UB, np.full(i.shape, 2.5), i, j)
        np.testing.assert_allclose(found, w.hkl(r, 2.5)[::7, ::7], atol=1e-9)
        assert w.monitor
        np.testing.assert_array_equal(scan.monitor, w.monitor[r])
        np.testing.assert_array_equal(scan.attenuation, w.attenuator[r])


def test_mean_counts_of_a_voxel_are_as_planned(plate_world: World) -> None:
    w = plate_world
    diffuse = np.mean(
        [w.parts(r, z)["diffuse"][~w.blind].mean() for r in (0, 1) for z in range(20)]
    )
    assert diffuse * w.pixels_per_voxel == pytest.approx(100, rel=0.03)


def test_transmission_between_nodes_is_traced() -> None:
    """Splines over rotation and direction agree with rays to 0.3 %, which is the fitter's goal."""
    w = world("plate", 3, (60, 64), span=60.0)
    for z in (7, 33):
        found = at_blocks(w.transmission(0, z), 12)
        traced = w.absorber.sample(w.scans[0].R(z + 0.5), at_blocks(w.s, 12))
        np.testing.assert_allclose(found, traced, rtol=3e-3)


def test_the_gauge_is_a_function_of_q_with_the_groups_symmetry() -> None:
    w = world("plate", 3, (60, 64), span=45.0)
    crystal = w.crystal
    fields, gauge = [], []
    for r in range(len(w.scans)):
        hkl = np.stack([w.hkl(r, z + 0.5, at_blocks(w.s, 2)) for z in range(w.scans[r].n_frames)])
        q2 = np.sum((hkl @ crystal.B.T) ** 2, axis=-1)
        axial = (hkl[..., 2] * crystal.B[2, 2]) ** 2
        gauge.append(0.1 * np.cos(0.05 * q2) + 0.003 * axial)
        frame = np.arange(w.scans[r].n_frames)[:, None, None]
        fields.append(np.broadcast_to(0.02 * np.sin(frame / 7), hkl.shape[:-1]))
    unseen = gauge_free(w, gauge, every=2)
    assert unseen.rms < 1e-3 * unseen.gauge_rms
    seen = gauge_free(w, fields, every=2)
    assert seen.rms > 0.5 * 0.02 / np.sqrt(2)
    assert seen.repeated > 0.7
    both = gauge_free(w, [a + b for a, b in zip(gauge, fields, strict=True)], every=2)
    np.testing.assert_allclose(both.fields[0], seen.fields[0], atol=1e-3)
    Q, _ = folded(w, 0, 6)
    assert np.ptp(np.linalg.norm(Q, axis=-1) - at_blocks(w.q, 6)) < 1e-5


def test_the_bound_falls_as_the_root_of_counts() -> None:
    one = scale_bound(world("plate", 3, (60, 64), span=45.0, counts=50.0), 4)
    four = scale_bound(world("plate", 3, (60, 64), span=45.0, counts=200.0), 4)
    ratio = np.concatenate(one) / np.concatenate(four)
    np.testing.assert_allclose(ratio, 2, rtol=1e-3)
    assert np.concatenate(four).max() < 0.05


def test_ten_worlds_have_all_systems_and_separate_seeds() -> None:
    groups = [gemmi.find_spacegroup_by_name(p.crystal.space_group) for p in PLANS.values()]
    assert len(PLANS) == 10
    assert len({g.crystal_system_str() for g in groups}) == 7
    assert not set(SEEN) & set(HELD_OUT)
