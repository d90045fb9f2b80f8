"""Maxima inside of holes, from their tails, in worlds with a known S(Q)."""

from dataclasses import replace

import numpy as np
import pytest
from tests.truth import hole_judge, hole_worlds
from tests.truth.hole_targets import target_of

from hklflow.stage import hole_checks
from hklflow.volumes import fill
from hklflow.volumes.spectrum import ROUNDS, SpectrumFill
from hklflow.volumes.tail_data import around
from hklflow.volumes.tail_fit import Fit, Problem
from hklflow.volumes.tail_limits import Limits, limits
from hklflow.volumes.tail_models import KINDS, Family, Kind, Voxels, products
from hklflow.volumes.tail_share import usual, weigh
from hklflow.volumes.tails import Share, Tails

RADIUS = hole_worlds.RADIUS


def reflections(world: hole_worlds.World) -> np.ndarray:
    most = np.floor(-world.grid.first + 1e-9).astype(int)
    return (
        np.stack(
            np.meshgrid(*(np.arange(-n, n + 1) for n in most), indexing="ij"), axis=-1
        ).reshape(-1, 3)
        * 1.0
    )


def world_of(kind: str, cell: str, step: float = 0.1) -> hole_worlds.World:
    return hole_worlds.make_world(kind, cell, 2 * int(2 / step) + 1, step, False)


def errors_in_holes(
    world: hole_worlds.World, model: Tails, target: fill.Target
) -> tuple[float, float]:
    """Mean error and its σ, in units of the true S, of holes."""
    q = np.linalg.norm(hole_worlds.hkl_of(world.grid) @ world.lattice.reciprocal.T, axis=-1)
    own = (world.punched == fill.PUNCHED) & (q > 0.5) & (q < 0.8 * world.q_max)
    weigh(target, model, world.q_max)
    model.subtract()
    fill.fill(target)
    again = SpectrumFill(target, world.q_max)
    for _ in range(ROUNDS):
        again.learn()
    again.write()
    before = target.errors.copy()
    model.settle(again)
    model.restore()
    level = world.truth[own].mean()
    # Errors of the model are common to all holes.
    added = np.sqrt(target.errors**2 - np.minimum(before, target.errors) ** 2)[own].mean()
    return float((target.data - world.truth)[own].mean() / level), float(added / level)


@pytest.mark.parametrize(
    ("kind", "step", "norm", "seed", "largest"),
    [
        ("correlated displacements", 0.1, 100.0, 1, 0.1),
        # Reflections are not at the centres of voxels.
        ("correlated displacements", 0.12, 100.0, 1, 0.15),
        # Without the model, S in the holes is too small by 0.6.
        ("short-range order + isotropic TDS", 0.1, 100.0, 1, 0.2),
        # Other maxima scatter less in the rim than elastic waves, but do not describe it better.
        ("short-range order + isotropic TDS", 0.1, 30.0, 5001, 0.2),
    ],
)
@pytest.mark.slow
def test_maxima_are_found_again(
    kind: str, step: float, norm: float, seed: int, largest: float
) -> None:
    world = world_of(kind, "cubic", step)
    target = target_of(world, norm, seed)
    model = Tails(target, reflections(world), RADIUS, world.q_max)
    assert model.found
    assert model.chi2 < 1.4
    error, sigma = errors_in_holes(world, model, target)
    assert abs(error) < 3 * sigma
    assert abs(error) < largest
    assert sigma < largest


@pytest.mark.parametrize(
    ("kind", "cell", "norm"),
    [
        ("size effect", "cubic", 100.0),
        # Rods of diffuse scattering through the reflections, which do not grow with G².
        ("short-range order", "hexagonal", 30.0),
    ],
)
@pytest.mark.slow
def test_no_maxima_are_claimed_where_there_are_none(kind: str, cell: str, norm: float) -> None:
    world = world_of(kind, cell)
    target = target_of(world, norm, 3)
    before = target.data.copy()
    model = Tails(target, reflections(world), RADIUS, world.q_max)
    assert not model.found
    assert not model.rises
    model.subtract()
    model.restore()
    np.testing.assert_array_equal(target.data, before)


@pytest.mark.parametrize(("height", "number"), [(-20.0, 3), (0.02, len(KINDS))])
def test_only_certain_minima_save_the_fit_of_all_kinds(
    monkeypatch: pytest.MonkeyPatch, height: float, number: int
) -> None:
    """S is 5 with a Gaussian at each reflection, of 0.2 σ, or far below zero within the hole."""
    world = world_of("short-range order", "cubic")
    target = target_of(world, 100.0, 0)
    hkl = hole_worlds.hkl_of(world.grid)
    q = (hkl - np.rint(hkl)) @ world.lattice.reciprocal.T
    noise = np.random.default_rng(0).normal(size=target.data.shape)
    target.errors[:] = 0.1
    target.data[:] = 5 + height * np.exp(-2 * np.sum(q**2, axis=-1) / RADIUS**2) + 0.1 * noise
    fitted, kinds = Problem.fitted, []

    def counted(problem: Problem, kind: Kind | None, near: Fit | None = None) -> Fit:
        kinds.append(kind)
        return fitted(problem, kind, near)

    monkeypatch.setattr(Problem, "fitted", counted)
    model = Tails(target, reflections(world), RADIUS, world.q_max)
    assert len(kinds) == 1 + number
    assert not model.found
    assert not model.rises
    assert 0.9 < model.chi2 < 1.5


@pytest.mark.parametrize("dips", [False, True])
def test_products_of_the_derivatives_are_those_of_the_residuals(dips: bool) -> None:
    """Of χ² with the amplitudes held, which `Problem.chi2` differs from by their best values."""
    world = world_of("correlated displacements", "monoclinic")
    target = target_of(world, 100.0, 0)
    model = Tails(target, reflections(world), RADIUS, world.q_max)
    family = replace(model._family, dips=dips)
    problem = Problem(family, around(target, model._centres, RADIUS, model._outer), 999)
    for kind in (None, KINDS[0]):
        values = family.start(0.2, 0.5, False)
        values[2:] += 0.02 * np.random.default_rng(0).normal(size=len(values) - 2)
        products = problem._products(kind, values)
        assert products[-1, -1] == pytest.approx(problem.chi2(kind, values))
        slopes = []
        for step in 1e-4 * np.eye(len(values)):
            up, down = (problem.chi2(kind, values + sign * step) for sign in (1, -1))
            slopes.append((up - down) / 4e-4)
        expected = products[:-1, -1]
        if kind is None:
            slopes[:2] = expected[:2]
        scale = np.sqrt(np.diag(products)[:-1] * products[-1, -1])
        np.testing.assert_allclose(slopes / scale, expected / scale, atol=1e-4)


@pytest.mark.parametrize(
    ("cell", "norm", "seed", "least"),
    [
        # Not every model of the maxima has more evidence than none; A_G hardly tell that they grow.
        ("triclinic", 10.0, 1, 0.9),
        ("monoclinic", 10.0, 6, 0.3),
    ],
)
@pytest.mark.slow
def test_maxima_that_are_hard_to_see_are_not_dismissed(
    cell: str, norm: float, seed: int, least: float
) -> None:
    world = world_of("correlated displacements", cell)
    target = target_of(world, norm, seed)
    model = Tails(target, reflections(world), RADIUS, world.q_max)
    assert model.found
    assert least < model.likely
    before = model.likely
    model.weigh(*usual())
    assert model.likely == pytest.approx(before)
    assert model.share == pytest.approx(before)
    assert model._mean.sum() == pytest.approx(before)


def maxima_of_known_size(world: hole_worlds.World, alpha: float, unit: float) -> np.ndarray:
    """S is 5 and α Q² M, p = 2, with Γ = q²/3 and κ of 1.2 ``unit``: A_G is α G²."""
    hkl = hole_worlds.hkl_of(world.grid)
    b = world.lattice.reciprocal
    near = np.sum(((hkl - np.rint(hkl)) @ b.T) ** 2, axis=-1)
    kappa = (1.2 * unit) ** 2
    shape = ((kappa + unit**2) / (kappa + near / 3)) ** 2
    return 5 + alpha * np.sum((hkl @ b.T) ** 2, axis=-1) * shape


@pytest.mark.parametrize("alpha", [0.0, 0.02])
def test_the_size_of_maxima_has_errors_that_are_right(alpha: float) -> None:
    world = world_of("short-range order", "cubic")
    target = target_of(world, 100.0, 0)
    target.errors[:] = 0.3
    model = Tails(target, reflections(world), RADIUS, world.q_max)
    family = model._family
    truth = maxima_of_known_size(world, alpha, family.unit)
    pulls, holes = [], ~np.isfinite(target.data)
    for seed in range(30):
        noise = np.random.default_rng(seed).normal(size=truth.shape)
        # Equivalents are the same measurement.
        noise = np.bincount(world.orbits.ravel(), noise.ravel())
        noise = (noise / np.sqrt(np.bincount(world.orbits.ravel())))[world.orbits]
        target.data[:] = np.where(holes, np.nan, truth + 0.3 * noise)
        data = around(target, model._centres, RADIUS, model._outer)
        problem = Problem(family, data, len(model._centres))
        found = limits(problem.fitted(None), problem, family, model._squares, 1.0)
        (own,) = [
            i
            for i, (kind, values) in enumerate(found.shapes)
            if kind == Kind(2.0, False)
            and found.decays[i] == 0
            and np.isclose(np.exp(values[0]), 1.2 * family.unit)
        ]
        pulls.append((found.mean[own] - alpha) / found.error[own])
    assert abs(np.mean(pulls)) < 4 / np.sqrt(30)
    assert 0.7 < np.std(pulls) < 1.3


def test_drawn_sizes_have_the_scatter_of_the_limits() -> None:
    """With a size of −1 ± 1, the part above 0 has the mean 0.525, and the scatter 0.446."""
    kind = Kind(1.0, False, elastic=True)
    one, zero = np.ones(1), np.zeros(1)
    found = Limits([(kind, np.zeros(2))], zero, one, -one, one, 0.0, 0.0)
    drawn = found.drawn(True, 2000, np.full(3, 4.0), np.random.default_rng(0))
    sizes = np.array([amplitude.mean() / 4 for _, _, amplitude in drawn])
    assert sizes.mean() == pytest.approx(0.525, rel=0.03)
    # A_G of three reflections scatter by 0.3 of the size.
    assert sizes.std() == pytest.approx(0.456, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "cell", "norm", "seed"),
    [
        # 20 free elastic constants cost more than the maxima are worth.
        ("correlated displacements", "triclinic", 3.0, 103),
        ("correlated displacements", "monoclinic", 3.0, 104),
        ("short-range order", "cubic", 10.0, 3),
    ],
)
@pytest.mark.slow
def test_what_few_counts_leave_open_is_in_sigma(
    kind: str, cell: str, norm: float, seed: int
) -> None:
    world = world_of(kind, cell)
    target = target_of(world, norm, seed)
    model = Tails(target, reflections(world), RADIUS, world.q_max)
    assert model.undecided
    assert not model.rises
    assert 0.05 < model.likely < 0.95
    error, sigma = errors_in_holes(world, model, target)
    assert abs(error) < 3 * sigma


def test_evidence_against_maxima_leaves_no_model() -> None:
    world = world_of("correlated displacements", "cubic")
    model = Tails(target_of(world, 100.0, 1), reflections(world), RADIUS, world.q_max)
    assert model.found
    assert model.likely > 0.99
    model.weigh(Share(1.0, 0.03, -60.0), Share(1.0, 0.3, -60.0))
    assert not model.found
    assert not model.rises
    assert model.likely < 0.01


@pytest.mark.parametrize("cell", ["cubic", "hexagonal"])
@pytest.mark.slow
def test_elastic_waves_next_to_minima_have_the_right_size(cell: str) -> None:
    """S of short-range order is 10 to 150 times smaller at the reflections."""
    kind = "short-range order + isotropic TDS"
    step = 0.1 if cell == "cubic" else 1 / 14
    world = world_of(kind, cell, step)
    target = target_of(world, 30.0, 1)
    model = Tails(target, reflections(world), RADIUS, world.q_max)
    model.only(True)
    hkl = hole_worlds.hkl_of(world.grid)
    waves = world.truth - hole_worlds.short_range_order(world.lattice)(hkl)
    length = np.linalg.norm(hkl @ world.lattice.reciprocal.T, axis=-1)
    own = (world.punched == fill.PUNCHED) & (length > 0.5) & (length < 0.8 * world.q_max)
    target.data[:] = 0
    model.add()
    assert target.data[own].sum() == pytest.approx(waves[own].sum(), rel=0.25)


@pytest.mark.parametrize("centre", [(1.0, 1.0, 1.0), (2.0, 0.0, 0.0), (2.0, -1.0, 1.0)])
def test_few_voxels_in_a_radius_are_averaged_well(centre: tuple[float, ...]) -> None:
    """1/q² in voxels at 1.6 edges and beyond, compared with 50³ points."""
    edge = 0.12
    family = Family.of(np.stack([np.eye(3), -np.eye(3)]), np.eye(3), 12.0, 0.2, edge * np.eye(3))
    values = family.start(1.0, 1.0, True)  # isotropic, C_44 = C_11/3: the trace is 7/q²
    values[0] = family.bounds(Kind(1.0, False, elastic=True))[0][0]
    (found,) = family.maximum(values, Kind(1.0, False, elastic=True), edge * np.array([centre]))
    fine = (np.arange(50) + 0.5) / 50 - 0.5
    x, y, z = (c + fine for c in centre)
    squares = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2
    expected = 7 * 0.2**2 * np.mean(1 / squares) / edge**2
    assert found[[0, 3, 5]].sum() == pytest.approx(expected, rel=0.005)


def test_measured_voxels_keep_their_values_and_errors() -> None:
    world = world_of("correlated displacements", "cubic")
    target = target_of(world, 100.0, 1)
    data, errors = target.data.copy(), target.errors.copy()
    model = Tails(target, reflections(world), RADIUS, world.q_max)
    model.subtract()
    measured = target.code == fill.MEASURED
    assert np.abs(target.data - data)[measured].max() > 0.1
    model.restore()
    np.testing.assert_allclose(target.data[measured], data[measured], atol=1e-5)
    np.testing.assert_array_equal(target.errors[measured], errors[measured])


@pytest.mark.parametrize(
    ("cell", "number"), [("cubic", 9), ("hexagonal", 5), ("monoclinic", 13), ("triclinic", 21)]
)
def test_elastic_constants_are_those_of_the_laue_group(cell: str, number: int) -> None:
    """Nye (1957), table 9; the worlds called cubic have mmm, those called hexagonal 6/m."""
    lattice = hole_worlds.LATTICES[cell]
    b = lattice.reciprocal
    rotations = np.array([b @ w @ np.linalg.inv(b) for w in lattice.operations])
    family = Family.of(rotations, b, 12.0, 0.2, 0.01 * b)
    assert len(family.elastic) == number
    for rotation in rotations:
        turned = np.einsum("nijkl,ai,bj,ck,dl->nabcd", family.elastic, *[rotation] * 4)
        np.testing.assert_allclose(turned, family.elastic, atol=1e-9)


def test_elastic_waves_are_those_of_the_constants() -> None:
    """Qᵀ M Q is Qᵀ Γ⁻¹ Q of Christoffel's Γ, for isotropic constants along simple directions."""
    lattice = hole_worlds.LATTICES["cubic"]
    b = lattice.reciprocal
    rotations = np.array([b @ w @ np.linalg.inv(b) for w in lattice.operations])
    family = Family.of(rotations, b, 12.0, 0.2, 0.01 * b)
    values = family.start(0.005, 5.0, True)
    q = np.array([[0.2, 0.0, 0.0], [0.0, 0.1, 0.0]])
    model = family.maximum(values, Kind(1.0, False), q)
    big = np.array([3.0, 0.0, 0.0])
    # C_11 = 1 for longitudinal waves, C_44 = 1/3 for transverse ones.
    found = model @ products(big)
    assert found[1] / found[0] == pytest.approx((0.2**2 * 1) / (0.1**2 / 3), rel=0.01)


@pytest.mark.slow
def test_the_pdf_moves_with_the_models_as_its_shifts_say() -> None:
    """At lattice vectors, by plain sums over the voxels in the holes, for each drawn model."""
    world = world_of("correlated displacements", "cubic")
    target = target_of(world, 100.0, 1)
    model = Tails(target, reflections(world), RADIUS, world.q_max)
    vectors = np.array([[1.0, 0, 0], [1, 1, 0], [2, -1, 1]])
    assert model.shifts(vectors).shape == (0, 3)
    target.data[target.code == fill.PUNCHED] = 0
    model.settle(None)
    found = model.shifts(vectors)
    number = len(model._samples)
    sums = []
    hkl = hole_worlds.hkl_of(world.grid)
    w = hole_judge.taper(np.linalg.norm(hkl @ world.lattice.reciprocal.T, axis=-1), world.q_max)
    voxel = np.linalg.det(world.lattice.reciprocal) * 1e-3 / (2 * np.pi) ** 3
    waves = np.cos(2 * np.pi * hkl @ vectors.T)
    for one in np.eye(number):
        target.data[:] = 0
        model._add(one)
        own = np.where(target.code == fill.PUNCHED, target.data, 0).astype(float)
        sums.append(voxel * np.einsum("lkh,lkhn->n", w * own, waves))
    expected = np.cov(np.array(sums).T, bias=True, aweights=model._mean)
    # Tails of neighbours reach a little into holes.
    np.testing.assert_allclose(found.T @ found / len(found), expected, rtol=0.15)


@pytest.mark.slow
def test_a_hole_less_narrow_than_its_maximum_takes_up_what_is_wrong_with_the_model() -> None:
    """The rest of S contains it, and the fill of the rest sees it around the hole."""
    world = world_of("correlated displacements", "cubic", 0.08)
    stated = []
    for kriged in (True, False):
        target = target_of(world, 100.0, 1)
        model = Tails(target, reflections(world), RADIUS, world.q_max)
        model.weigh(Share(0.5, 0.5), Share(0.5, 0.5))
        model.subtract()
        fill.fill(target)
        again = SpectrumFill(target, world.q_max)
        again.learn()
        model.settle(None if kriged else again)
        stated.append(np.abs(model.shifts(np.array([[1.0, 0, 0]]))).max())
    assert stated[1] < 0.4 * stated[0]


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_slopes_of_the_maximum_are_its_differences(power: float) -> None:
    lattice = hole_worlds.LATTICES["triclinic"]
    b = lattice.reciprocal
    family = Family.of(np.stack([np.eye(3), -np.eye(3)]), b, 12.0, 0.2, 0.01 * b)
    values = family.start(0.1, 0.4, True)
    values[2:6] = 0.1, -0.2, 0.05, 0.3
    rng = np.random.default_rng(0)
    q = np.concatenate([rng.normal(0, 0.2, (20, 3)), [[0.2, 0, 0]]])
    kind = Kind(power, True)
    maximum, found = family.slopes(values, kind, q)
    np.testing.assert_allclose(maximum, family.maximum(values, kind, q), rtol=1e-12)
    for k in range(found.shape[2]):
        step = np.zeros_like(values)
        step[k] = 1e-6
        up, down = (family.maximum(values + s * step, kind, q) for s in (1, -1))
        expected = (up - down) / 2e-6
        np.testing.assert_allclose(found[..., k], expected, atol=1e-5 * np.abs(up).max())


def test_unstable_elastic_constants_have_finite_slopes() -> None:
    """The search passes through constants for which all waves are unstable."""
    family = Family.of(
        np.stack([np.eye(3), -np.eye(3)]), 1.2 * np.eye(3), 12.0, 0.2, 0.01 * np.eye(3)
    )
    values = family.start(0.1, 0.4, True)
    values[2:] = -3.0
    q = np.array([[0.2, 0, 0], [0, 0.2, 0], [0.1, 0.1, 0.1]])
    elastic = family.elastic.copy()
    elastic[0] = -np.einsum("ij,kl->ikjl", np.eye(3), np.eye(3))
    elastic[1:] = 0  # all eigenvalues are equal, and negative
    for own in (family, replace(family, elastic=elastic)):
        for found in own.slopes(values, Kind(1.0, True), q):
            assert np.isfinite(found).all()


@pytest.mark.slow
def test_holes_that_nearly_meet_get_no_model() -> None:
    """Between them, the shape inside of them is not known: it was 10⁵ times too large."""
    world = hole_worlds.make_world("correlated displacements", "cubic", 41, 0.1, False, 0.48)
    model = Tails(target_of(world, 100.0, 1), reflections(world), 0.48, world.q_max)
    assert not model.found
    (words,) = hole_checks.tails(model)
    assert "smaller radius" in words
    # A third of the distance.
    world = hole_worlds.make_world("correlated displacements", "cubic", 41, 0.1, False, 0.4)
    assert Tails(target_of(world, 100.0, 1), reflections(world), 0.4, world.q_max).found


@pytest.mark.parametrize("centre", [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.2, -0.1, 0.1)])
def test_elastic_waves_are_averaged_over_voxels(centre: tuple[float, ...]) -> None:
    """1/q² diverges in the voxel of a reflection: compared with 200³ points of the voxel."""
    edge = 0.12
    family = Family.of(np.stack([np.eye(3), -np.eye(3)]), np.eye(3), 12.0, 0.2, edge * np.eye(3))
    kind = Kind(1.0, False, elastic=True)
    values = family.start(1.0, 1.0, True)  # isotropic, C_44 = C_11/3: the trace is 7/q²
    values[0] = family.bounds(kind)[0][0]
    (found,) = family.integrated(values, kind, Voxels.at(edge * np.array([centre]), family.edges))
    fine = (np.arange(200) + 0.5) / 200 - 0.5
    x, y, z = (np.float64(c) + fine for c in centre)
    squares = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2
    # Of 1/q² at the reflection, the points miss some 0.3 %.
    expected = 7 * 0.2**2 * np.mean(1 / squares) / edge**2
    assert found[[0, 3, 5]].sum() == pytest.approx(expected, rel=0.02)
