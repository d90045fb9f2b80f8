"""The simulated worlds obey the physics that they state; the inverse here is written apart."""

from dataclasses import replace

import gemmi
import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from tests.truth.worlds import (
    BRAGG,
    DIFFUSE,
    HALF,
    NOISE,
    RING,
    SECOND,
    SUPER,
    SYSTEMS,
    TRANSITIONS,
    World,
    catalogue,
    systems_of,
    world,
)
from tests.truth.worlds_draft import n_centrings
from tests.truth.worlds_kinds import KINDS
from tests.truth.worlds_physics import (
    Motion,
    busing_levy,
    cell_of_axes,
    direct_basis,
    is_absent,
    merge_overlaps,
    observe,
    pixelation_variance,
    wilson,
)

NAMES = ("frame", "slow", "fast")


def matrix(axis: np.ndarray, degrees: float | np.ndarray) -> np.ndarray:
    """Rodrigues' formula."""
    a, t = np.asarray(axis) / np.linalg.norm(axis), np.radians(degrees)[..., None, None]
    K = np.array([[0, -a[2], a[1]], [a[2], 0, -a[0]], [-a[1], a[0], 0]])
    return np.eye(3) + np.sin(t) * K + (1 - np.cos(t)) * (K @ K)


def mapped(w: World, which: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Q in the lab and in the crystal's frame at zero, by the header's geometry."""
    p, inst = w.peaks, w.instrument
    frame, slow, fast, index = (p[n][which] for n in (*(f"true_{n}" for n in NAMES), "rotation"))
    r = inst.origin + inst.pixel_size * (np.outer(fast, inst.fast) + np.outer(slow, inst.slow))
    lab = r / np.linalg.norm(r, axis=1)[:, None] - [0, 0, 1]
    lab *= 2 * np.pi / inst.wavelength
    scan = w.scans[0]
    R = matrix(scan.axis, scan.start + frame * scan.step)
    R = R @ np.array([s.setting for s in w.scans])[index]
    return lab, np.einsum("nji,nj->ni", R, lab)


def hkl_of(w: World, own: np.ndarray) -> np.ndarray:
    return own @ np.linalg.inv(w.UB).T


@pytest.mark.parametrize("system", SYSTEMS)
def test_plain_peaks_are_on_the_ewald_sphere_at_their_hkl(system):
    w = world("plain", system, 3, rotations=2 if system == "cubic" else 1)
    lab, own = mapped(w)
    k = w.instrument.k
    assert np.abs(np.linalg.norm(lab + np.array([0, 0, k]), axis=1) / k - 1).max() < 1e-12
    assert np.abs(hkl_of(w, own) - w.peaks["hkl"]).max() < 1e-7
    assert np.array_equal(w.cell, w.sample.cell)
    assert w.sample.misfit(0, np.zeros(1), np.zeros((1, 3)), np.eye(3))[0] == 0
    n = w.instrument.shape
    for name, size in zip(NAMES, (w.scans[0].n_frames, *n), strict=True):
        assert w.peaks[f"true_{name}"].min() > 0
        assert w.peaks[f"true_{name}"].max() < size
    assert 100 < len(lab) < 20_000


def test_both_crossings_of_a_full_turn_are_found():
    w = world("plain", "orthorhombic", 1, n_frames=720, mosaic=0.1)
    h = np.round(w.peaks["hkl"][:15])
    frame, index = w.sample.crossings(0, h, np.eye(3))
    fine = np.linspace(0, 720, 7201)
    for i in range(len(h)):
        F = w.sample.misfit(0, fine, np.broadcast_to(h[i], (len(fine), 3)), np.eye(3))
        roots = fine[:-1][F[:-1] * F[1:] < 0]
        assert len(roots) == 2
        np.testing.assert_allclose(np.sort(frame[index == i]), roots, atol=0.1)


def test_b_has_busing_and_levys_axes_and_the_cells_metric():
    cell = np.array([5.1, 6.2, 7.3, 84, 97, 105.0])
    B = busing_levy(cell)
    assert np.abs(np.tril(B, -1)).max() < 1e-12
    assert (np.diag(B) > 0).all()
    np.testing.assert_allclose(cell_of_axes(direct_basis(B)), cell, atol=1e-9)
    d = [gemmi.UnitCell(*cell).calculate_d(h) for h in ([1, 2, 3], [-2, 1, 1])]
    q = np.linalg.norm(np.array([[1, 2, 3], [-2, 1, 1]]) @ B.T, axis=1)
    np.testing.assert_allclose(2 * np.pi / q, d)


def test_pulls_of_the_centroids_have_width_one():
    w = world("plain", "triclinic", 5, floor=(0.1, 0.05))
    for name in NAMES:
        variance = w.peaks[f"var_{name}"]
        pull = (w.peaks[name] - w.peaks[f"true_{name}"]) / np.sqrt(variance)
        assert abs(pull.std() - 1) < 4 / np.sqrt(2 * len(pull))
        assert abs(pull.mean()) < 4 / np.sqrt(len(pull))
    assert w.peaks["var_slow"].min() > 0.05**2
    assert w.peaks["intensity"].min() >= 30
    assert w.peaks["intensity"].max() <= 1e5


@pytest.mark.parametrize("width", [0.05, 0.2, 0.3, 0.6])
def test_pixelation_variance_is_the_mean_square_error_of_binned_centroids(width):
    from scipy.special import ndtr

    x = (np.arange(400) + 0.5) / 400
    edges = np.arange(-6, 8)
    share = np.diff(ndtr((edges - x[:, None]) / width), axis=1)
    error = share @ (edges[:-1] + 0.5) - x
    assert pixelation_variance(np.array([width]))[0] == pytest.approx(np.mean(error**2), rel=1e-2)


def test_stated_variance_is_that_of_a_centroid_of_counts():
    """Spots of 1000 counts drawn photon by photon, without background."""
    rng = np.random.default_rng(1)
    photons = np.floor(rng.normal(10.3, 0.8, (1500, 1000))) + 0.5
    spot = {n: np.full(1, 10.3) for n in NAMES} | {f"width_{n}": np.full(1, 0.8) for n in NAMES}
    spot |= {"intensity": np.full(1, 1000.0), "background": np.zeros(1)}
    stated = observe(spot, rng)
    variance = stated["var_slow"][0] * stated["intensity"][0] / 1000
    assert photons.mean(axis=1).var() == pytest.approx(variance, rel=0.12)


def test_rocking_width_is_the_spread_of_crossings_of_rotated_blocks():
    w = world("plain", "triclinic", 2, mosaic=0.1, n_frames=40)
    rng = np.random.default_rng(3)
    for i in rng.integers(len(w.peaks["frame"]), size=2):
        h, frame = w.peaks["hkl"][[i]], w.peaks["true_frame"][i]
        blocks = Rotation.from_rotvec(rng.normal(0, 0.1, (150, 3)), degrees=True).as_matrix()
        found = np.concatenate([w.sample.crossings(0, h, T)[0] for T in blocks])
        near = found[np.abs(found - frame) < 5 * w.peaks["width_frame"][i]]
        width = np.hypot(near.std(), np.sqrt(1 / 12))
        assert width == pytest.approx(w.peaks["width_frame"][i], rel=0.2)


def test_a_slip_moves_peaks_after_its_frame_only():
    w = world("slip", "orthorhombic", 4, 0.7)
    slip = w.effects[0]
    _, own = mapped(w)
    ideal = w.peaks["hkl"] @ w.UB.T
    after = w.peaks["true_frame"] > slip["frame"]
    assert np.abs(own - ideal)[~after].max() < 1e-8
    turned = ideal @ matrix(slip["axis"], 0.7).T
    assert np.abs(own - turned)[after].max() < 1e-8
    assert after.any()
    assert not after.all()


def test_a_drift_grows_linearly_to_its_size():
    w = world("drift", "tetragonal", 4, 1.0)
    _, own = mapped(w)
    ideal, axis = w.peaks["hkl"] @ w.UB.T, w.effects[0]["axis"]
    angle = w.peaks["true_frame"] / w.scans[0].n_frames
    turned = np.einsum("nij,nj->ni", matrix(axis, angle), ideal)
    assert np.abs(own - turned).max() < 1e-8


def test_a_wobble_about_the_scan_axis_is_an_error_of_the_angle():
    plain = world("plain", "cubic", 4)
    scan = plain.scans[0]
    motion = Motion(wobbles=[(scan.axis, 0.2, 1, 30.0)])
    sample = replace(plain.sample, motion=motion)
    frame = np.array([12.0, 200.0])
    got = sample.state(0, frame)[0]
    for f, R in zip(frame, got, strict=True):
        angle = scan.start + f * scan.step
        true = angle + 0.2 * np.sin(np.radians(angle + 30))
        np.testing.assert_allclose(R, matrix(scan.axis, true), atol=1e-12)


def test_a_crystal_50_um_off_the_axis_moves_spots_by_03_pixels():
    w = world("off_centre", "monoclinic", 6, 5e-5, arm=0)
    a, b = w.peaks, world("plain", "monoclinic", 6, arm=0).peaks
    key = {(*h, int(f)): i for i, (h, f) in enumerate(zip(b["hkl"], b["true_frame"], strict=True))}
    pairs = [
        (i, key[(*h, int(f))])
        for i, (h, f) in enumerate(zip(a["hkl"], a["true_frame"], strict=True))
        if (*h, int(f)) in key
    ]
    i, j = np.array(pairs).T
    shift = np.stack([a[f"true_{n}"][i] - b[f"true_{n}"][j] for n in ("slow", "fast")])
    assert np.abs(a["true_frame"][i] - b["true_frame"][j]).max() < 1e-9
    largest = np.linalg.norm(shift, axis=0).max()
    assert 0.28 < largest < 0.45  # 50 µm / 172 µm, more where the ray is oblique
    scan, offset = w.scans[0], w.effects[0]["offset"]
    assert abs((scan.axis @ scan.setting) @ offset) < 1e-18
    # A spot near the beam moves by the offset's part across the beam.
    n = np.argmin(np.linalg.norm(mapped(w)[0][i], axis=1))
    R = matrix(scan.axis, scan.start + a["true_frame"][i[n]] * scan.step) @ scan.setting
    x = (R @ offset)[:2]
    moved = shift[0, n] * w.instrument.slow + shift[1, n] * w.instrument.fast
    np.testing.assert_allclose(moved[:2], x / w.instrument.pixel_size, atol=0.08)


def test_a_turned_beam_keeps_the_elastic_condition_of_the_turned_beam():
    w = world("beam_moves:direction", "cubic", 3, 0.1)
    p, inst = w.peaks, w.instrument
    i = int(np.argmax(p["true_frame"]))
    t = p["true_frame"][i] / w.scans[0].n_frames
    beam = inst.k * matrix(w.effects[0]["vector"], 0.1 * t) @ [0, 0, 1]
    R = matrix(w.scans[0].axis, w.scans[0].start + p["true_frame"][i] * w.scans[0].step)
    s = beam + R @ w.UB @ p["hkl"][i]
    assert np.linalg.norm(s) == pytest.approx(inst.k, rel=1e-10)
    r = inst.point(p["true_slow"][i], p["true_fast"][i])
    np.testing.assert_allclose(r / np.linalg.norm(r), s / inst.k, atol=1e-10)


def test_a_cell_that_expands_shortens_q_along_the_scan():
    w = world("cell_changes", "cubic", 3, 5e-3)
    _, own = mapped(w)
    ratio = np.linalg.norm(own, axis=1) / np.linalg.norm(w.peaks["hkl"] @ w.UB.T, axis=1)
    t = w.peaks["true_frame"] / w.scans[0].n_frames
    np.testing.assert_allclose(ratio, 1 / (1 + t * w.effects[0]["strain"][0]), rtol=1e-9)


def test_half_wavelength_peaks_are_at_odd_halves_and_elastic_for_twice_k():
    w = world("half_wavelength", "orthorhombic", 1)
    half = w.peaks["origin"] == HALF
    lab, own = mapped(w, which=half)
    h = hkl_of(w, own)
    H = np.round(2 * h)
    assert np.abs(2 * h - H).max() < 1e-7
    assert (H % 2 != 0).any(axis=1).all()
    assert not is_absent(w.true_space_group, H).any()
    k = w.instrument.k
    np.testing.assert_allclose(np.linalg.norm(2 * lab + np.array([0, 0, 2 * k]), axis=1), 2 * k)
    assert half.sum() > 20


def test_a_second_lattice_is_the_first_one_rotated():
    w = world("second_lattice", "trigonal", 2, 0.3)
    record, second = w.effects[0], w.peaks["origin"] == SECOND
    _, own = mapped(w, which=second & (w.peaks["merged"] == 1))
    h = hkl_of(w, own @ matrix(record["axis"], record["angle"]))
    assert np.abs(h - np.round(h)).max() < 1e-6
    assert 1 <= record["angle"] <= 40


@pytest.mark.parametrize("system", systems_of("twin_pseudomerohedral"))
def test_a_twin_is_no_symmetry_but_nearly_one_for_pseudomerohedry(system):
    for kind in ("twin_nonmerohedral", "twin_pseudomerohedral"):
        w = world(kind, system, 3, overlaps=False, n_frames=60, mosaic=0.1)
        T = w.effects[0]["rotation_matrix"]
        np.testing.assert_allclose(T @ T, np.eye(3), atol=1e-9)
        law = np.linalg.inv(w.UB) @ T @ w.UB
        away = np.abs(law - np.round(law)).max()
        if kind == "twin_pseudomerohedral":
            assert 1e-4 < away < 0.2 or system == "trigonal"
        _, own = mapped(w, which=w.peaks["origin"] == SECOND)
        h = hkl_of(w, own @ T)
        assert np.abs(h - np.round(h)).max() < 1e-6


def test_satellites_are_at_the_propagation_vector():
    w = world("superlattice:1/3,1/3,0", "hexagonal", 2)
    _, own = mapped(w, which=w.peaks["origin"] == SUPER)
    part = hkl_of(w, own) % 1
    assert len(own) > 20
    q = np.array([1 / 3, 1 / 3, 0])
    away = [np.abs((part - s * q + 0.5) % 1 - 0.5).max(axis=1) for s in (1, -1)]
    assert np.min(away, axis=0).max() < 1e-6


def test_rings_have_their_d_and_noise_its_share():
    w = world("rings:aluminium+noise", "monoclinic", 2, 0.2)
    p = w.peaks
    lab, _ = mapped(w, which=p["origin"] == RING)
    rings = 2 * np.pi / 4.0495 * np.sqrt([3, 4, 8, 11, 12, 19, 20])
    q = np.linalg.norm(lab, axis=1)
    assert np.abs(q[:, None] / rings - 1).min(axis=1).max() < 1e-9
    bragg = np.sum(p["origin"] == BRAGG)
    assert len(q) / (len(q) + bragg) == pytest.approx(0.2, abs=0.01)
    share = w.effects[1]["size"]
    noise = np.sum(p["origin"] == NOISE)
    assert noise / (noise + bragg) == pytest.approx(share, abs=0.01)


def test_diffuse_maxima_are_broad_and_displaced_alike_for_friedel_mates():
    w = world("broad", "cubic", 5, 0.6, overlaps=False)
    diffuse = w.peaks["origin"] == DIFFUSE
    sharp = world("plain", "cubic", 5).peaks["width_slow"]
    assert np.median(w.peaks["width_slow"][diffuse]) > np.median(sharp)
    _, own = mapped(w, which=diffuse)
    h, label = hkl_of(w, own), w.peaks["hkl"][diffuse]
    away = {tuple(n): x - n for n, x in zip(label, h, strict=True)}
    mates = [(d, away[tuple(-np.array(n))]) for n, d in away.items() if tuple(-np.array(n)) in away]
    assert len(mates) >= 2
    assert max(np.abs(a + b).max() for a, b in mates) < 1e-6
    assert min(np.linalg.norm(d) for d in away.values()) > 1e-6


@pytest.mark.parametrize("what", KINDS["wrong_header"].variants)
def test_only_the_header_is_wrong(what):
    w, plain = (world(k, "triclinic", 1) for k in (f"wrong_header:{what}", "plain"))
    assert np.array_equal(w.sample.instrument.origin, plain.instrument.origin)
    i, j, a, b = w.instrument, plain.instrument, w.scans[0], plain.scans[0]
    normal = np.cross(j.fast, j.slow)
    change = {
        "axis": np.abs(a.axis + b.axis).max(),
        "start": abs(abs(a.start - b.start) - 5),
        "wavelength": abs(abs(i.wavelength / j.wavelength - 1) - 0.01),
        "distance": abs(abs(i.origin @ normal / (j.origin @ normal) - 1) - 0.03),
        "beam": abs(np.linalg.norm(i.origin - j.origin) / j.pixel_size - 5),
    }[what]
    assert change < 1e-9


@pytest.mark.parametrize("what", TRANSITIONS)
def test_a_transition_keeps_the_parents_reflections(what):
    """No fundamental reflection is absent in the child, and volumes agree with the matrix P."""
    (system,) = systems_of("transition", what)
    w = world(f"transition:{what}", system, 2, 0.01, n_frames=40, mosaic=0.1)
    record, parent = w.effects[0], w.parent
    P = record["P"]
    assert np.linalg.det(P) > 0
    h = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3), -1).reshape(-1, 3)
    allowed = ~is_absent(parent.true_space_group, h)
    assert not is_absent(w.true_space_group, h[allowed] @ P).any()
    assert is_absent(w.true_space_group, h[is_absent(parent.true_space_group, h)] @ P).all()
    ratio = np.linalg.det(parent.UB) / np.linalg.det(w.UB) / np.linalg.det(P)
    assert abs(ratio - 1) < 0.02
    direct = direct_basis(parent.UB) @ P
    cosine = np.trace(np.linalg.solve(direct, direct_basis(w.UB))) / 3
    assert cosine == pytest.approx(1, abs=0.01)
    group = gemmi.find_spacegroup_by_name(w.true_space_group)
    cell = gemmi.UnitCell(*w.sample.cell)
    assert cell.is_compatible_with_spacegroup(group, 1e-6)
    extra = n_centrings(parent.true_space_group) * np.linalg.det(P)
    if what not in ("incommensurate", "incommensurate-a"):
        has = (w.peaks["origin"] == SUPER).any()
        assert has == (round(extra) > n_centrings(w.true_space_group))
    _, own = mapped(w)
    assert np.abs(hkl_of(w, own) - w.peaks["hkl"]).max() < 1e-6


def test_structure_factors_obey_laue_symmetry_and_wilson():
    h = np.array([[1, 2, 3], [2, 1, 3], [-1, 2, -3], [3, 1, 2], [1, 1, 2]])
    F = wilson("Im-3m", h, 7)
    assert np.ptp(F[:4]) == 0
    assert F[4] > 0
    assert wilson("Im-3m", np.array([[1, 0, 0]]), 7)[0] == 0
    many = wilson("P-1", np.stack(np.meshgrid(*[np.arange(1, 20)] * 3), -1).reshape(-1, 3), 3)
    assert many.mean() == pytest.approx(1, abs=0.05)
    assert many.var() == pytest.approx(1, abs=0.1)


def test_unresolved_spots_are_one_spot_at_their_centre_of_mass():
    rows = {n: np.array([10.0, 10.0, 50.0]) for n in NAMES} | {"slow": np.array([10.0, 11.0, 50])}
    rows |= {f"width_{n}": np.full(3, 0.8) for n in NAMES}
    rows |= {"intensity": np.array([100.0, 300.0, 50.0]), "rotation": np.zeros(3, int)}
    merged = merge_overlaps(rows)
    assert merged["slow"] == pytest.approx([10.75, 50])
    assert merged["merged"].tolist() == [2, 1]
    assert merged["width_slow"][0] == pytest.approx(np.sqrt(0.64 + 0.1875))
    assert merged["intensity"] == pytest.approx([400, 50])


def test_a_world_is_a_function_of_its_arguments():
    a, b = (world("noise+drift", "cubic", 9) for _ in range(2))
    for name in a.peaks:
        np.testing.assert_array_equal(a.peaks[name], b.peaks[name])
    with pytest.raises(ValueError, match="does not exist in the cubic"):
        world("twin_pseudomerohedral", "cubic", 1)
    with pytest.raises(ValueError, match="unknown kind"):
        world("flying", "cubic", 1)


def test_the_catalogue_has_every_kind_and_system():
    entries = catalogue(90, 100)
    assert len(entries) == len({n for _, _, n in entries}) == 90
    used: dict[str, set[str]] = {}
    for kind, system, _ in entries:
        for part in kind.split("+"):
            used.setdefault(part.partition(":")[0], set()).add(system)
    assert all(len(used[k]) >= 2 for k in KINDS)
    assert all(sum(s == system for _, s, _ in entries) >= 5 for system in SYSTEMS)
    assert sum("+" in kind for kind, _, _ in entries) > 10
