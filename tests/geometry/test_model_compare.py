"""Models of one crystal: the same, turned, reindexed; and on the geometry of another scan."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation as Turn

from hklflow.base.errors import HklflowError
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice, symmetry
from hklflow.geometry.model import (
    Model,
    fraction_along_x,
    from_orientation,
    onto_beam,
    to_orientation,
    with_one_crystal,
)
from hklflow.geometry.model_compare import compare, detector_of, on_geometry
from hklflow.geometry.parameters import HEAD

DETECTOR = Detector((100, 120), (1e-4, 1e-4), [0.006, 0.005, 0.06], [0, -1, 0], [-1, 0, 0])
ROTATION = Rotation(
    Beam(0.5, 0.9),
    DETECTOR,
    Goniometer(("omega", "phi"), [[0, 1, 0], [-1, 0, 0]], [0.2, 0.0], 1),
    Scan(0.1, 0.01, 90),
)
CELLS = {
    "P 4/m": (5.5, 5.5, 7.8, 90, 90, 90),
    "P 4/m m m": (5.5, 5.5, 7.8, 90, 90, 90),
    "P -3": (4.9, 4.9, 5.4, 90, 90, 120),
    "P 6/m m m": (4.9, 4.9, 5.4, 90, 90, 120),
    "I m m m": (5.5, 7.9, 13.2, 90, 90, 90),
    "P 1 21/c 1": (8.1, 5.2, 9.7, 90, 113, 90),
    "P -1": (5.1, 6.3, 7.9, 82, 97, 105),
}


def crystal(group, seed=0):
    u = Turn.random(random_state=seed).as_matrix()
    return Model(ROTATION, u @ lattice.b_matrix(CELLS[group]), group)


def small_turn(degrees, seed):
    axis = np.random.default_rng(seed).normal(size=3)
    return Turn.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(CELLS)), st.floats(1e-4, 3.0), st.integers(0, 10**6), st.data())
def test_turn_is_found_whatever_equivalent_indices(group, degrees, seed, data):
    first = crystal(group, seed)
    known = symmetry.space_group(group)
    proper = known.proper_laue_operations
    operation = proper[data.draw(st.integers(0, len(proper) - 1))]
    second = replace(first, ub=small_turn(degrees, seed) @ first.ub @ np.linalg.inv(operation))
    found = compare(first, second, known)
    assert found.degrees == pytest.approx(degrees, rel=1e-6)
    assert not found.reindexed
    np.testing.assert_allclose(found.cells[1], found.cells[0], rtol=1e-9)
    # h_first = matrix h_second, but for the turn.
    ubs = [first.ub @ found.matrix, second.ub]
    turn = lattice.nearest_rotation(ubs[1] @ np.linalg.inv(ubs[0]))
    assert np.degrees(lattice.rotation_angle(turn, np.eye(3))) == pytest.approx(degrees, rel=1e-6)


@pytest.mark.parametrize(
    ("group", "operation"),
    [
        ("P 4/m", [[0, 1, 0], [1, 0, 0], [0, 0, -1]]),
        ("P -3", [[-1, 0, 0], [0, -1, 0], [0, 0, 1]]),
    ],
)
def test_lattice_symmetry_that_the_crystal_lacks_is_told(group, operation):
    first = crystal(group)
    ub = small_turn(0.2, 3) @ first.ub @ np.linalg.inv(np.array(operation, float))
    found = compare(first, replace(first, ub=ub), symmetry.space_group(group))
    assert found.reindexed
    assert found.degrees == pytest.approx(0.2, rel=1e-6)
    more = {"P 4/m": "P 4/m m m", "P -3": "P 6/m m m"}[group]
    both = [replace(first, space_group=more), replace(first, ub=ub, space_group=more)]
    assert not compare(*both, symmetry.space_group(more)).reindexed


def test_primitive_setting_of_a_centred_lattice():
    """As a program without hints indexes it: a reduced cell in P 1."""
    first = crystal("I m m m")
    group = symmetry.space_group("I m m m")
    reduced, matrix = symmetry.niggli(CELLS["I m m m"], group)
    ub = small_turn(0.3, 1) @ first.ub @ np.linalg.inv(matrix)
    found = compare(first, replace(first, ub=ub, space_group="P 1"), group)
    assert found.degrees == pytest.approx(0.3, rel=1e-6)
    assert not found.reindexed
    np.testing.assert_allclose(found.cells[1], CELLS["I m m m"], rtol=1e-9)
    assert lattice.volume(reduced) == pytest.approx(lattice.volume(CELLS["I m m m"]) / 2)


def test_cells_differ_in_the_setting_of_the_first():
    first = crystal("P 1 21/c 1")
    u, cell = first.crystal
    swelled = cell * [1.002, 1.0, 0.999, 1, 1, 1]
    second = replace(first, ub=u @ lattice.b_matrix(swelled))
    found = compare(first, second, symmetry.space_group("P 1 21/c 1"))
    np.testing.assert_allclose(found.cells[1] / found.cells[0], swelled / cell, rtol=1e-9)


def test_other_lattices_are_refused():
    group = symmetry.space_group("P 4/m")
    with pytest.raises(HklflowError, match="do not describe the same lattice"):
        compare(crystal("P 4/m"), crystal("P -1"), group)
    with pytest.raises(HklflowError, match="no crystal"):
        compare(crystal("P 4/m"), replace(crystal("P 4/m"), ub=None), group)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_on_our_geometry_wherever_the_other_laboratory_lies(seed):
    """The whole model turned about the beam, its crystal frame anywhere: the same UB."""
    model = crystal("P -1", seed)
    about = Turn.from_rotvec([0, 0, 1.0 + seed]).as_matrix()
    inner = Turn.random(random_state=seed).as_matrix()
    vector = Turn.from_matrix(inner).as_rotvec()
    goniometer = Goniometer(
        ("omega", "phi", "inner"),
        np.vstack([ROTATION.goniometer.axes, vector]) @ about.T,
        np.array([0.2, 0.0, np.linalg.norm(vector)]),
        1,
    )
    detector = replace(
        DETECTOR,
        origin=about @ DETECTOR.origin,
        slow=about @ DETECTOR.slow,
        fast=about @ DETECTOR.fast,
    )
    longer = Scan(0.1 - 0.01 * 15, 0.01, 120)
    theirs = Rotation(ROTATION.beam, detector, goniometer, longer)
    other = replace(model, rotation=theirs, ub=about @ inner.T @ model.ub, first_image=6)
    found, misfit = on_geometry(other, ROTATION, 20)
    np.testing.assert_allclose(found.ub, model.ub, atol=1e-9)
    assert misfit < 1e-9
    assert found.first_image == 21


def test_another_calibration_turns_the_crystal_and_leaves_its_cell():
    model = crystal("P -1")
    shifted = replace(DETECTOR, origin=DETECTOR.origin * [1.01, 0.99, 1.005])
    found, misfit = on_geometry(model, replace(ROTATION, detector=shifted), 0)
    np.testing.assert_allclose(found.crystal[1], model.crystal[1], rtol=1e-12)
    assert 1e-4 < misfit < 0.05
    turned = lattice.rotation_angle(found.crystal[0], model.crystal[0])
    assert 1e-5 < turned < 0.01


def test_another_geometry_misfits():
    model = crystal("P -1")
    backwards = replace(ROTATION, scan=Scan(0.1, -0.01, 90))
    assert on_geometry(model, backwards, 0)[1] > 0.05
    smaller = replace(ROTATION, detector=replace(DETECTOR, shape=(100, 100)))
    with pytest.raises(HklflowError, match="pixels"):
        on_geometry(model, smaller, 0)


@pytest.mark.parametrize("angle", [1e-9, 0.003, 1.0, np.pi - 1e-9, np.pi])
def test_one_crystal_with_heads(angle):
    first = crystal("P -1")
    headed = replace(
        ROTATION,
        goniometer=Goniometer(
            ("omega", "phi", HEAD),
            np.vstack([ROTATION.goniometer.axes, [0, 0.6, 0.8]]),
            np.array([0.2, 0, 0.02]),
            1,
        ),
    )
    turn = Turn.from_rotvec(angle * np.array([2, -1, 2]) / 3).as_matrix()
    models = [
        first,
        replace(first, name="f2", ub=turn @ first.ub),
        replace(first, name="f3", ub=turn @ first.ub, rotation=headed),
    ]
    shared = with_one_crystal(models)
    for model, one in zip(models, shared, strict=True):
        np.testing.assert_array_equal(one.ub, first.ub)
        for phi in (0.0, 1.0):
            np.testing.assert_allclose(
                one.rotation.goniometer.rotation(phi) @ one.ub,
                model.rotation.goniometer.rotation(phi) @ model.ub,
                atol=1e-12,
            )
    assert shared[2].rotation.goniometer.names == ("omega", "phi", HEAD)
    assert bool(shared[1].notes) == (angle > np.radians(0.5))


def test_a_cell_that_gives_way_is_told():
    first = crystal("P -1")
    second = replace(first, name="f2", ub=first.ub * 1.01)
    assert "was replaced" in with_one_crystal([first, second])[1].notes[0]


def test_orientation_and_back():
    first, second = crystal("P -1"), replace(crystal("P -1"), name="f2")
    first = replace(first, space_group="Hall: -P 1")
    data = to_orientation([first, second])
    assert data["space_group"] == "P -1"
    back = from_orientation(data)
    assert [m.name for m in back] == ["rotation", "f2"]
    np.testing.assert_array_equal(back[0].ub, first.ub)
    np.testing.assert_allclose(data["U"] @ lattice.b_matrix(data["cell"]), data["UB"], atol=1e-12)
    with pytest.raises(HklflowError, match="names must differ"):
        to_orientation([first, first])


@pytest.mark.parametrize(
    "change",
    [
        {"UB": None},
        {"UB": [[1, 2], [3, 4]]},
        {"UB": [[np.nan] * 3] * 3},
        {"rotations": {}},
        {"rotations": []},
        {"rotations": {"f1": {}}},
        {"rotations": {"f1": 3}},
    ],
)
def test_other_json_is_refused(change):
    data = to_orientation([crystal("P -1")]) | change
    with pytest.raises(HklflowError, match="not an orientation"):
        from_orientation(data)
    del data["space_group"]
    with pytest.raises(HklflowError, match="not an orientation"):
        from_orientation(data)


def test_polarization_of_a_plane():
    assert fraction_along_x(0.9, [0, 2, 0]) == (pytest.approx(0.9), False)
    assert fraction_along_x(0.9, [1, 0, 5]) == (pytest.approx(0.1), False)
    assert fraction_along_x(0.9, [1, 1, 0]) == (pytest.approx(0.5), True)
    assert fraction_along_x(0.5, [1, 1, 0]) == (pytest.approx(0.5), False)
    for normal in ([0, 0, 1], [0, 0, 0]):
        with pytest.raises(HklflowError, match="along the beam"):
            fraction_along_x(0.9, normal)


def test_hall_symbols_keep_their_setting():
    """`P 2` is unique axis b as Hermann-Mauguin symbol, and unique axis c as Hall symbol."""
    model = crystal("P -1")
    for group, number_of_axis in (("P 2", 1), ("Hall: P 2", 2)):
        data = to_orientation([replace(model, space_group=group)])
        operations = symmetry.space_group(data["space_group"]).operations[0]
        kept = [i for i in range(3) if np.all(operations[:, i, i] == 1)]
        assert kept == [number_of_axis]


@pytest.mark.parametrize("direction", [[0, 0, 2], [0, 0, -1], [0.1, -0.2, 1], [1, 0, 0]])
def test_beam_is_turned_onto_z(direction):
    turn = onto_beam(direction)
    np.testing.assert_allclose(turn @ direction, [0, 0, np.linalg.norm(direction)], atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)


@pytest.mark.parametrize("degrees", [0.0, 37.0, 90.0, 180.0, -120.0])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_detector_comes_from_a_laboratory_that_is_turned_about_the_beam(
    degrees: float, backwards: bool
) -> None:
    """And from programs that turn about the opposite axis, the other way."""
    refined = DETECTOR.moved([3e-4, -2e-4, 1e-3], [0.01, -0.02, 0.015])
    turned = Turn.from_euler("z", degrees, degrees=True).as_matrix()
    omega = Turn.from_euler("y", 0.2).as_matrix()  # the outer axis of the goniometer
    scan_axis = turned @ omega @ [-1.0, 0.0, 0.0]
    sign = -1 if backwards else 1
    theirs = Rotation(
        Beam(0.5, 0.9),
        Detector(
            (100, 120),
            (1e-4, 1e-4),
            turned @ refined.origin,
            turned @ refined.slow,
            turned @ refined.fast,
        ),
        Goniometer.single(sign * scan_axis),
        Scan(0.0, sign * 0.01, 90),
    )
    found = detector_of(Model(theirs), ROTATION)
    for name in ("origin", "slow", "fast"):
        np.testing.assert_allclose(getattr(found, name), getattr(refined, name), atol=1e-12)
