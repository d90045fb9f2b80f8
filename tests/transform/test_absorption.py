"""Transmission by shape against closed forms, published tables, and rays of another program."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from tests.truth.quantitative_catalogue import PLANS, world
from tests.truth.quantitative_scans import crystal_of, rotation_of

from hklflow.base.errors import HklflowError
from hklflow.transform import absorption, attenuation, crystal_shape
from hklflow.transform.absorption import Crystal, Profile
from hklflow.transform.direction import Direction

NONE = np.eye(3)


def rays(two_theta: list[float]) -> np.ndarray:
    angle = np.radians(two_theta)
    return np.stack([np.sin(angle), 0 * angle, np.cos(angle)], axis=-1)


@pytest.mark.parametrize("mu_r", [0.1, 0.5, 1.0, 2.0, 2.5, 6.0])
def test_a_sphere_at_0_and_180_degrees_is_the_closed_form(mu_r: float) -> None:
    crystal = Crystal(crystal_shape.ellipsoid([0.2] * 3, NONE), mu_r / 0.2)
    T, slope = absorption.transmission(crystal, NONE, rays([0, 180]))
    x = mu_r
    ahead = 3 / (2 * x**3) * (0.5 - np.exp(-2 * x) * (0.5 + x + x**2))
    back = 3 / (4 * x) * (0.5 - (1 - (1 + 4 * x) * np.exp(-4 * x)) / (16 * x**2))
    np.testing.assert_allclose(T, [ahead, back], rtol=5e-4)
    more, _ = absorption.transmission(crystal._replace(mu=1.001 * crystal.mu), NONE, rays([0, 180]))
    np.testing.assert_allclose(slope, -np.log(more / T) / np.log(1.001), rtol=3e-3)


@pytest.mark.parametrize(
    ("theta", "mu_r", "published"),
    [(45, 0.5, 0.5018), (45, 1.0, 0.2855), (45, 2.0, 0.1256), (60, 1.0, 0.3075)],
)
def test_a_sphere_is_the_published(theta: float, mu_r: float, published: float) -> None:
    """Dwiggins, Acta Cryst. A31, 395 (1975), the source of Int. Tables C 6.3.3.3, to 0.2 %."""
    crystal = Crystal(crystal_shape.ellipsoid([1.0] * 3, NONE), mu_r)
    T, _ = absorption.transmission(crystal, NONE, rays([2 * theta]))
    np.testing.assert_allclose(T, published, rtol=3e-3)


@pytest.mark.parametrize("mu_r", [0.3, 1.0, 2.0])
def test_a_cylinder_normal_to_the_beam_is_an_integral_over_chords(mu_r: float) -> None:
    axes = np.array([[0, 1.0, 0], [1, 0, 0], [0, 0, -1]])
    crystal = Crystal(crystal_shape.cylinder([1, 1], 8.0, axes), mu_r)
    T, _ = absorption.transmission(crystal, NONE, rays([0, 180]))

    def chord(y: float) -> float:
        return float(2 * np.sqrt(1 - y**2))

    ahead = quad(lambda y: chord(y) * np.exp(-mu_r * chord(y)), -1, 1)[0] / np.pi
    back = quad(lambda y: -np.expm1(-2 * mu_r * chord(y)) / 2 / mu_r, -1, 1)[0] / np.pi
    np.testing.assert_allclose(T, [ahead, back], rtol=2e-3)


@pytest.mark.parametrize("two_theta", [0.0, 50.0, 130.0])
def test_a_wide_plate_is_the_closed_form(two_theta: float) -> None:
    """In transmission and in reflection, at 30° to the beam."""
    tilt, thick, mu = np.radians(30), 0.01, 120.0
    normal = np.array([-np.sin(tilt), 0, np.cos(tilt)])
    axes = crystal_shape.axes_from(normal, [0, 1, 0])
    crystal = Crystal(crystal_shape.box([thick, 500, 500], axes), mu)
    ray = rays([two_theta])
    T, _ = absorption.transmission(crystal, NONE, ray)
    into, out = 1 / np.cos(tilt), 1 / float(ray[0] @ normal)
    depth = quad(
        lambda z: np.exp(-mu * (z * into + (thick - z if out > 0 else z) * abs(out))), 0, thick
    )[0]
    np.testing.assert_allclose(T, depth / thick, rtol=2e-3)


def test_no_attenuation_is_no_absorption_and_a_small_beam_lights_its_area() -> None:
    body = crystal_shape.box([2.0, 2.0, 0.1], np.eye(3))
    T, _ = absorption.transmission(Crystal(body, 1e-12), NONE, rays([0, 40]))
    np.testing.assert_allclose(T, 1, rtol=1e-9)
    for profile, area in (
        (Profile(0.3, 0.2, True), 0.3 * 0.2 * np.pi / (4 * np.log(2))),
        (Profile(0.3, 0.2, False), 0.3 * 0.2),
    ):
        T, _ = absorption.transmission(Crystal(body, 1e-12, profile), NONE, rays([0]))
        np.testing.assert_allclose(T, area / 4, rtol=1e-3)


@pytest.mark.parametrize("name", list(PLANS))
def test_all_bodies_agree_with_rays_of_another_program(name: str) -> None:
    """To 0.2 %, at several rotations and all nodes of the worlds."""
    w = world(name, 11, (60, 64))
    other = replace(w.absorber, tube=None, n_points=12_000)
    off = []
    for z in np.linspace(0, w.scans[0].n_frames, 5):
        R = w.scans[0].R(float(z))
        T, _ = absorption.transmission(crystal_of(w), R, w.node_rays)
        off.append(np.log(T / other.sample(R, w.node_rays)))
    assert np.sqrt(np.mean(np.square(off))) < 0.002
    assert abs(np.mean(off)) < 0.002


@pytest.mark.parametrize("name", ["plate", "needle"])
def test_frames_and_directions_are_interpolated(name: str) -> None:
    w = world(name, 11, (60, 64), span=24.0)
    rotation = rotation_of(w, 0)
    found = absorption.of_rotation(crystal_of(w), rotation, (0.3, 0.95), 33, 1)
    found.direction.require(rotation.scan.n_frames, w.shape)
    nodes = [np.linspace(0, n, 8) for n in w.shape]
    off = [
        found.direction.at(z, *nodes) + np.log(found.curve[z])
        - np.log(w.absorber.sample(w.scans[0].R(z + 0.5), w.node_rays))
        for z in (0, 7, 23)
    ]  # fmt: skip
    assert np.sqrt(np.mean(np.square(off))) < 0.003
    assert found.error < 0.003
    T = found.transmissions
    assert T.min() > 0
    assert T.max() < 1


@pytest.mark.parametrize("name", ["sphere", "plate"])
def test_a_size_known_to_5_percent_leaves_1_percent(name: str) -> None:
    """ln T of a crystal that is 5 % larger, without the common factor."""
    w = world(name, 11, (60, 64), span=24.0)
    crystal, rotation = crystal_of(w), rotation_of(w, 0)
    wrong = crystal._replace(body=crystal.body.scaled(1.05))
    one, other = (absorption.of_rotation(c, rotation, (0.3, 0.95), 17, 1) for c in (crystal, wrong))
    change = np.log(other.transmissions / one.transmissions)
    of_q, _ = absorption.shell_means([(rotation, one.direction, change)])
    assert np.std(of_q) < 0.01
    expected = -np.log(1.05) * (one.by_size + other.by_size) / 2
    np.testing.assert_allclose(change, expected, atol=2e-3)


def test_in_a_small_beam_the_size_changes_the_illuminated_part() -> None:
    w = world("small beam", 11, (60, 64), span=10.0)
    crystal, rotation = crystal_of(w), rotation_of(w, 0)
    one, other = (
        absorption.of_rotation(
            crystal._replace(body=crystal.body.scaled(s)), rotation, (0.3, 0.95), 9, 1
        )
        for s in (1.0, 1.03)
    )
    change = np.log(other.transmissions / one.transmissions)
    np.testing.assert_allclose(change, -np.log(1.03) * one.by_size, atol=1e-2)
    assert np.abs(one.by_size - one.by_mu).max() > 0.1


def test_open_and_superfluous_faces() -> None:
    faces = np.concatenate([np.eye(3), -np.eye(3)])
    with pytest.raises(HklflowError, match="open along"):
        crystal_shape.polyhedron(faces[:5], [0.1] * 5)
    body = crystal_shape.polyhedron([*faces, [1, 1, 1]], [0.1] * 6 + [1.0])
    assert crystal_shape.unused_faces(body) == [6]
    assert body.volume == pytest.approx(8e-3)
    assert body.longest >= 0.2


def test_attenuation_of_formulas() -> None:
    """SrTiO3 and quartz against the numbers of the worlds, which are of other tables."""
    for name in ("sphere", "small beam", "furnace"):
        c = world(name, 11, (60, 64)).crystal
        found = attenuation.by_density(c.formula, c.density, c.wavelength)
        assert found == pytest.approx(c.mu, rel=0.02)
    c = world("sphere", 11, (60, 64)).crystal
    assert attenuation.by_cell("SrTiO3", 1, c.volume, 0.5) == pytest.approx(c.mu, rel=0.02)
    for wrong in ("XxO3", "", "CuSO4.5H2O", "CuSO4·5H2O"):
        with pytest.raises(HklflowError, match="the formula"):
            attenuation.by_density(wrong, 1.0, 0.5)


def test_factors_of_direction_multiply_and_are_read_at_places() -> None:
    w = world("plate", 11, (60, 64), span=6.0)
    rng = np.random.default_rng(0)
    fine, coarse = (Direction.layout(rotation_of(w, 0), n) for n in (17, 9))
    fine = replace(fine, log=rng.normal(size=fine.log.shape))
    coarse = replace(coarse, log=rng.normal(size=coarse.log.shape))
    slow, fast = np.array([3.0, 50.5]), np.array([0.0, 33.3])
    both = fine.product(coarse).at(2, slow, fast)
    np.testing.assert_allclose(both, fine.at(2, slow, fast) + coarse.at(2, slow, fast))
    place = fine.of_places(np.array([2.5]), slow[:1], fast[1:])
    np.testing.assert_allclose(np.log(place), fine.at(2, slow, fast)[0, 1])
    assert fine.of_parts(4).shape == (len(fine.log), 16)
    with pytest.raises(HklflowError, match="run both again"):
        fine.product(replace(coarse, every=2))
