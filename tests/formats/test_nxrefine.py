"""Files of NXRefine: round trips, and hkl by NXRefine's own functions (tests/oracles)."""

import json
import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from model_cases import CELLS, assert_same, points, random_model, seeds
from scipy.spatial.transform import Rotation as Turn

from hklflow.base.errors import HklflowError
from hklflow.formats.nxrefine import read_nxrefine, write_nxrefine
from hklflow.geometry import Goniometer, lattice, symmetry
from hklflow.geometry.model import with_one_crystal

ORACLE = json.loads(
    (Path(__file__).parents[1] / "oracles/nxrefine_indexing.json").read_text(encoding="utf-8")
)


def turn(axis, degrees):
    return Turn.from_euler("xyz"[axis - 1], degrees, degrees=True).as_matrix()


def rows_of(text):
    """Matrix of a detector_orientation."""
    axes = {"x": [1, 0, 0], "y": [0, 1, 0], "z": [0, 0, 1]}
    return np.array(
        [np.array(axes[word[1]]) * (-1 if word[0] == "-" else 1) for word in text.split()]
    )


def cell_axes(a, b, c, alpha, beta, gamma):
    """Columns a, b, c as NXRefine lays them."""
    ca, cb, cg = np.cos(np.radians([alpha, beta, gamma]))
    sg = np.sin(np.radians(gamma))
    x, y = c * cb, c * (ca - cb * cg) / sg
    return np.array([[a, b * cg, x], [0, b * sg, y], [0, 0, np.sqrt(c * c - x * x - y * y)]])


def hkl_of_nxrefine(entry, x, y, z, b_matrix):
    """Miller coordinates of pixel and frame indices, by the formulas of NXRefine."""
    detector, goniometer = entry["instrument/detector"], entry["instrument/goniometer"]

    def number(group, name):
        return float(group[name][()])

    wavelength = number(entry, "instrument/monochromator/wavelength")
    tilts = [number(detector, name) for name in ("roll", "pitch", "yaw")]
    d_inverse = turn(1, tilts[0]) @ turn(2, tilts[1]) @ turn(3, tilts[2])
    o_inverse = rows_of(detector["detector_orientation"][()].decode()).T
    phi, step = number(goniometer, "phi"), goniometer["phi"].attrs["step"]
    fixed = turn(2, number(goniometer, "theta")) @ turn(3, number(goniometer, "omega"))
    fixed = fixed @ turn(1, number(goniometer, "chi"))
    pixel, length = number(detector, "pixel_size"), number(detector, "distance")
    centre = [number(detector, f"beam_center_{axis}") for axis in "xy"]
    inverse = np.linalg.inv(detector["orientation_matrix"][()] @ b_matrix)
    found = []
    for i, j, k in zip(x, y, z, strict=True):
        v2 = pixel * o_inverse @ [i - centre[0], j - centre[1], 0.0]
        v3 = d_inverse @ v2 + [length, 0, 0]
        g = v3 / np.linalg.norm(v3) / wavelength - np.array([1, 0, 0]) / wavelength
        found.append(inverse @ np.linalg.inv(fixed @ turn(3, phi + step * k)) @ g)
    return np.array(found)


def written(tmp_path, *models):
    path = tmp_path / "a.nxs"
    write_nxrefine(path, models)
    return path


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_round_trip(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("nx") / "a.nxs"
    model = random_model(seed, square=True)
    assert write_nxrefine(path, [model]) == []
    (back,) = read_nxrefine(path)
    assert_same(model, back)
    own = [symmetry.space_group(m.space_group) for m in (model, back)]
    assert own[0] == own[1]


@pytest.mark.parametrize("n", range(4))
def test_hkl_are_those_of_nxrefine_itself(tmp_path, n):
    """By the formulas above, and by our model of the same file: answers of NXRefine 1.0.0b1."""
    case = ORACLE["files"][n]
    path = tmp_path / "a.nxs"
    with h5py.File(path, "w") as file:
        for name, value in case["fields"].items():
            file[name] = value
        file["f1/instrument/goniometer/phi"].attrs["step"] = case["step"]
        cell = [float(file[f"entry/sample/unitcell_{name}"][()]) for name in lattice_names]
        x, y, z = np.array(case["xyz"]).T
        formulas = hkl_of_nxrefine(file["f1"], x, y, z, np.linalg.inv(cell_axes(*cell)))
    np.testing.assert_allclose(formulas, case["hkl"], atol=1e-9)
    (model,) = read_nxrefine(path)
    ours = model.rotation.hkl(model.ub, z + 0.5, y + 0.5, x + 0.5)
    np.testing.assert_allclose(ours, case["hkl"], atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_the_formulas_of_nxrefine_index_what_we_write_alike(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("nx") / "a.nxs"
    model = random_model(seed, square=True)
    write_nxrefine(path, [model])
    frame, slow, fast = points(model, n=40)
    with h5py.File(path) as file:
        cell = [float(file[f"entry/sample/unitcell_{n}"][()]) for n in lattice_names]
        assert file["f1/sample/unitcell_a"][()] == cell[0]
        b = np.linalg.inv(cell_axes(*cell))  # without the transposition that a reciprocal has
        hkl = hkl_of_nxrefine(file["f1"], fast - 0.5, slow - 0.5, frame - 0.5, b)
    np.testing.assert_allclose(hkl, model.rotation.hkl(model.ub, frame, slow, fast), atol=1e-9)


lattice_names = ("a", "b", "c", "alpha", "beta", "gamma")


def test_orientation_of_a_hexagonal_crystal_is_no_rotation(tmp_path):
    model = replace(random_model(1, square=True), space_group="P 6/m")
    ub = Turn.random(random_state=1).as_matrix() @ lattice.b_matrix(CELLS["P 63/m m c"])
    path = written(tmp_path, replace(model, ub=ub))
    with h5py.File(path) as file:
        u = file["f1/instrument/detector/orientation_matrix"][()]
    assert np.abs(u @ u.T - np.eye(3)).max() > 0.1
    (back,) = read_nxrefine(path)
    np.testing.assert_allclose(back.ub, _in_frame_of(back, model, ub), rtol=1e-10, atol=1e-10)


def _in_frame_of(back, model, ub):
    """UB that a read model must have: both say the same of the laboratory at phi = 0."""
    own, other = (m.rotation.goniometer.rotation(0.0) for m in (back, model))
    return own.T @ other @ ub


def test_matrix_with_reciprocal_axes_is_known_by_its_cell(tmp_path):
    """As a version would store it that has B right: U is a rotation."""
    model = replace(random_model(1, square=True), space_group="P 6/m")
    u = Turn.random(random_state=2).as_matrix()
    ub = u @ lattice.b_matrix(CELLS["P 63/m m c"])
    path = written(tmp_path, replace(model, ub=ub))
    (first,) = read_nxrefine(path)
    with h5py.File(path, "a") as file:
        detector = file["f1/instrument/detector"]
        axes = cell_axes(*CELLS["P 63/m m c"])
        right = detector["orientation_matrix"][()] @ np.linalg.inv(axes) @ axes.T
        detector["orientation_matrix"][...] = right
    np.testing.assert_allclose(right @ right.T, np.eye(3), atol=1e-9)
    (second,) = read_nxrefine(path)
    np.testing.assert_allclose(second.ub, first.ub, rtol=1e-9, atol=1e-9)
    assert "reciprocal axes" in " ".join(second.notes)


def test_own_chain_of_axes_keeps_its_angles(tmp_path):
    """theta about our x, omega about y, chi about z, phi about y."""
    axes = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 0]], float)
    chain = Goniometer(("theta", "omega", "chi", "phi"), axes, np.array([0.1, 0.2, -1.5, 0.0]), 3)
    model = random_model(2, square=True)
    model = replace(model, rotation=replace(model.rotation, goniometer=chain))
    path = written(tmp_path, model)
    with h5py.File(path) as file:
        chi = file["f1/instrument/goniometer/chi"][()]
    assert chi == pytest.approx(np.degrees(-1.5))
    (back,) = read_nxrefine(path)
    np.testing.assert_allclose(back.rotation.goniometer.angles[:3], [0.1, 0.2, -1.5], rtol=1e-12)
    np.testing.assert_allclose(back.ub, model.ub, atol=1e-12)


def test_rotations_of_one_crystal(tmp_path):
    first, second = (random_model(seed, square=True, name=f"f{seed}") for seed in (1, 2))
    second = replace(second, ub=first.ub)
    back = with_one_crystal(read_nxrefine(written(tmp_path, first, second)))
    assert [model.name for model in back] == ["f1", "f2"]
    np.testing.assert_array_equal(back[0].ub, back[1].ub)
    for model, read in zip((first, second), back, strict=True):
        assert_same(model, read)


def test_names_get_digits(tmp_path):
    model = random_model(1, square=True)
    path = tmp_path / "a.nxs"
    notes = write_nxrefine(path, [replace(model, name="up"), replace(model, name="down")])
    assert "f1, f2" in notes[0]
    assert [m.name for m in read_nxrefine(path)] == ["f1", "f2"]


def test_old_files(tmp_path):
    """phi of every frame, goniometer_pitch for theta, no detector_orientation."""
    model = random_model(3, square=True)
    path = written(tmp_path, model)
    (new,) = read_nxrefine(path)
    with h5py.File(path, "a") as file:
        detector, goniometer = file["f1/instrument/detector"], file["f1/instrument/goniometer"]
        phi, step = float(goniometer["phi"][()]), goniometer["phi"].attrs["step"]
        del goniometer["phi"], goniometer["theta"]
        goniometer["phi"] = phi + step * np.arange(60)
        text = detector["detector_orientation"][()].decode()
        del detector["detector_orientation"]
        detector["detector_orientation"] = rows_of(text).astype(float)
    (old,) = read_nxrefine(path)
    assert_same(new, old)


def test_default_orientation_is_that_of_nxrefine(tmp_path):
    model = random_model(3, square=True)
    path = written(tmp_path, model)
    with h5py.File(path, "a") as file:
        detector = file["f1/instrument/detector"]
        del detector["detector_orientation"]
        for name in ("yaw", "pitch", "roll"):
            detector[name][...] = 0.0
    (back,) = read_nxrefine(path)
    # -y +z -x of NXRefine: to the right looking downstream, and up.
    np.testing.assert_allclose(back.rotation.detector.fast, [-1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(back.rotation.detector.slow, [0, 1, 0], atol=1e-15)


def test_what_the_model_lacks_is_told(tmp_path):
    model = random_model(3, square=True)
    path = written(tmp_path, model)
    with h5py.File(path, "a") as file:
        file["f1/instrument/goniometer/xs"] = 0.2
        del file["f1/data"]
    (back,) = read_nxrefine(path)
    told = " ".join(back.notes)
    for words in ("offsets", "number of frames", "polarization"):
        assert words in told
    modules = random_model(3, square=True, modules=True)
    assert "modules" in write_nxrefine(path, [modules])[0]


def test_the_effect_of_offsets_is_told_as_large_as_it_can_be(tmp_path):
    """Against rays from the displaced crystal to the pixels, for all directions."""
    path = written(tmp_path, random_model(3, square=True))
    with h5py.File(path, "a") as file:
        for axis, value in (("xs", 0.1), ("ys", -0.2), ("zs", 0.2)):
            file[f"f1/instrument/goniometer/{axis}"] = value
    (back,) = read_nxrefine(path)
    (note,) = [note for note in back.notes if "offsets [0.1, -0.2, 0.2] mm" in note]
    pixels, shift = (float(re.search(f"by up to (\\S+) {unit}", note)[1]) for unit in ("pi", "1/"))
    detector, k = back.rotation.detector, back.rotation.beam.k
    assert pixels == pytest.approx(3e-4 / min(detector.pixel_size), rel=0.05)
    normal = np.cross(detector.slow, detector.fast)
    foot = normal * (detector.origin @ normal)
    ends = foot + np.array([x * detector.slow + y * detector.fast for x in LAB for y in LAB])
    place = np.random.default_rng(1).normal(size=(400, 1, 3))
    place *= 3e-4 / np.linalg.norm(place, axis=-1, keepdims=True)
    unit = [rays / np.linalg.norm(rays, axis=-1, keepdims=True) for rays in (ends - place, ends)]
    shifts = k * np.linalg.norm(unit[0] - unit[1], axis=-1)
    assert 0.9 * shift < shifts.max() < 1.05 * shift


LAB = np.linspace(-0.1, 0.1, 9)


def _no_matrix(file):
    del file["f1/instrument/detector/orientation_matrix"]


def _no_step(file):
    del file["f1/instrument/goniometer/phi"].attrs["step"]


def _no_wavelength(file):
    del file["f1/instrument/monochromator"]


def _link(file):
    del file["f1/instrument/monochromator"]
    file["f1/instrument/monochromator"] = h5py.ExternalLink("other.nxs", "/entry")


def _not_finite(file):
    file["f1/instrument/detector/distance"][...] = np.nan


def _left_handed(file):
    file["f1/instrument/detector/orientation_matrix"][...] *= -1


def _wrong_shape(file):
    del file["f1/instrument/detector/orientation_matrix"]
    file["f1/instrument/detector/orientation_matrix"] = np.eye(4)


def _wrong_words(file):
    del file["f1/instrument/detector/detector_orientation"]
    file["f1/instrument/detector/detector_orientation"] = "up down"


def _loop(file):
    del file["f1/instrument"]
    file["f1/instrument"] = h5py.SoftLink("/f1/instrument")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_no_matrix, "has no rotation with"),
        (_no_step, "no step"),
        (_no_wavelength, "wavelength is missing"),
        (_link, "wavelength is missing"),
        (_not_finite, "not finite"),
        (_left_handed, "right-handed"),
        (_wrong_shape, "not a readable file"),
        (_wrong_words, "not a readable file"),
        (_loop, "has no rotation with|not a readable file"),
    ],
)
def test_refuses(tmp_path, change, words):
    path = written(tmp_path, random_model(3, square=True))
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(HklflowError, match=words):
        read_nxrefine(path)


def test_refuses_truncated_files(tmp_path):
    path = written(tmp_path, random_model(3, square=True))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(HklflowError, match="not a readable file"):
        read_nxrefine(path)


def test_refuses_models_that_nxrefine_cannot_hold(tmp_path):
    with pytest.raises(HklflowError, match="square"):
        write_nxrefine(tmp_path / "a.nxs", [random_model(3)])
    model = random_model(3, square=True)
    away = replace(model.rotation.detector, origin=-model.rotation.detector.origin)
    model = replace(model, rotation=replace(model.rotation, detector=away))
    with pytest.raises(HklflowError, match="transmission"):
        write_nxrefine(tmp_path / "a.nxs", [model])
