"""Frames, spots and peaks of the viewer: the numbers are those of raw data and plain numpy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hklflow
from hklflow.base.errors import HklflowError
from hklflow.images.masks import MaskBit
from hklflow.results.rotation import MeasuredRotation
from hklflow.view import server
from tests.view.world import (
    FAST,
    FIRST,
    FLAG,
    LEFT_OUT,
    ROTATION,
    SLOW,
    UB,
    N,
    ask,
    counts,
    excluded,
    key,
    mask_bits,
    peak_table,
)

K = 2 * np.pi / 0.7


@pytest.fixture(scope="module")
def rotation(folder: Path) -> MeasuredRotation:
    measured: MeasuredRotation = hklflow.open(folder).rotation("hexa", "300K", "r1")
    return measured


def expected(first: int, n: int, how: str = "sum") -> np.ndarray:
    """Counts of frames of the scan, from the raw array."""
    frames = [f for f in range(first, first + n) if f != LEFT_OUT]
    raw = counts()[[FIRST + f for f in frames]].astype(float)
    raw[raw == FLAG] = np.nan
    image: np.ndarray = raw.sum(axis=0) if how == "sum" else raw.max(axis=0)
    return image


def q_lab(slow: np.ndarray, fast: np.ndarray) -> np.ndarray:
    """Scattering vectors of pixel coordinates, written out."""
    x = 0.075 - 3e-3 * fast
    y = 0.061 - 2e-3 * slow * np.cos(0.05)
    z = 0.12 + 2e-3 * slow * np.sin(0.05)
    ray = np.stack([x, y, z], axis=-1)
    unit = ray / np.sqrt((ray**2).sum(axis=-1, keepdims=True))
    vectors: np.ndarray = K * (unit - [0, 0, 1])
    return vectors


def turn(frame: float) -> np.ndarray:
    """Rotation of the goniometer: chi = 20° about z, then phi about -x."""
    chi, phi = np.radians(20.0), np.radians(10.0 + 1.5 * frame)
    c, s = np.cos(chi), np.sin(chi)
    outer = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    c, s = np.cos(-phi), np.sin(-phi)
    matrix: np.ndarray = outer @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return matrix


@pytest.mark.parametrize(("first", "n", "how"), [(0, 1, "sum"), (0, 7, "sum"), (1, 8, "maximum")])
def test_frames_are_the_raw_counts(
    viewer: server.Server, rotation: MeasuredRotation, first: int, n: int, how: Any
) -> None:
    truth = expected(first, n, how)
    image = rotation.image(first, n, how)
    np.testing.assert_array_equal(image, truth)
    assert image.attrs["frames"] == n - (first <= LEFT_OUT < first + n)
    code, found = ask(viewer, "frame", id=key(viewer, "300K", "r1"), first=first, n=n, how=how)
    assert code == 200
    assert (found["window"], found["size"]) == ([0, SLOW, 0, FAST], 1)
    np.testing.assert_array_equal(found["counts"], truth)
    assert found["sum of counts"] == np.nansum(truth)


def test_a_frame_that_is_left_out_has_no_counts(rotation: MeasuredRotation) -> None:
    image = rotation.image(LEFT_OUT)
    assert image.attrs["frames"] == 0
    assert np.isnan(image).all()


def test_masks_of_the_shown_frames(viewer: server.Server, rotation: MeasuredRotation) -> None:
    query = {"id": key(viewer, "300K", "r1"), "first": 5, "n": 2, "hide": 1}
    _, found = ask(viewer, "frame", **query)
    kind = np.where(excluded()[5:7].any(axis=0), 1, 0)
    kind[mask_bits() != 0] = 2
    kind[mask_bits() == MaskBit.GAP] = 3
    np.testing.assert_array_equal(found["kind"], kind)
    np.testing.assert_array_equal(found["counts"], np.where(kind < 2, expected(5, 2), np.nan))
    _, found = ask(viewer, "frame", **query | {"first": 0})
    assert not (found["kind"] == 1).any()
    np.testing.assert_array_equal(rotation.excluded(0, N), excluded().any(axis=0))


def test_only_the_window_is_sent_and_large_windows_in_blocks(viewer: server.Server) -> None:
    """A block of pixels has its largest count, so that no spot is lost."""
    this = key(viewer, "300K", "r1")
    window = (11, 58, 7, 50)
    _, found = ask(viewer, "frame", id=this, window="11,58,7,50", most=20, hide=1)
    truth = np.where(mask_bits() != 0, np.nan, expected(0, 1))
    size = found["size"]
    assert size == 3
    for i in range(16):
        for j in range(15):
            rows = slice(window[0] + size * i, min(window[0] + size * (i + 1), window[1]))
            columns = slice(window[2] + size * j, min(window[2] + size * (j + 1), window[3]))
            assert found["counts"][i, j] == np.nanmax(truth[rows, columns])
    assert found["counts"].shape == (16, 15)
    # One masked pixel does not hide its block, a block of masked pixels is masked.
    assert found["kind"].max() == 0
    _, found = ask(viewer, "frame", id=this, most=20)
    assert found["kind"][0, 0] == 3


def test_found_peaks_of_the_shown_frames(viewer: server.Server) -> None:
    table = peak_table()
    _, found = ask(viewer, "spots", id=key(viewer, "300K", "r1"), first=3, n=2, within=0.75)
    near = (table.frame >= 2.25) & (table.frame < 5.75)
    assert 0 < near.sum() < 12
    for name in ("frame", "slow", "fast", "intensity", "flags"):
        np.testing.assert_array_equal(found[f"found_{name}"], getattr(table, name)[near])
    np.testing.assert_array_equal(found["found_sigma"], np.sqrt(table.var_intensity[near]))
    _, found = ask(viewer, "spots", id=key(viewer, "300K", "r1"), all=1)
    assert len(found["found_slow"]) == 12


def test_peaks_have_the_q_and_hkl_of_plain_trigonometry(
    viewer: server.Server, rotation: MeasuredRotation
) -> None:
    _, found = ask(viewer, "peaks", id=key(viewer, "300K", "r1"))
    table = peak_table()
    q = np.stack(
        [
            turn(frame).T @ vector
            for frame, vector in zip(table.frame, q_lab(table.slow, table.fast), strict=True)
        ]
    )
    np.testing.assert_allclose(
        np.stack([found[n] for n in ("qx", "qy", "qz")], axis=1), q, atol=1e-10
    )
    hkl = np.linalg.solve(UB, q.T).T
    np.testing.assert_allclose(np.stack([found[n] for n in "hkl"], axis=1), hkl, atol=1e-10)
    assert found["ub"] == UB.tolist()
    for name, column in rotation.peaks.data_vars.items():
        np.testing.assert_array_equal(found[str(name)], column)


def test_predicted_spots_fulfil_the_laue_condition(viewer: server.Server) -> None:
    _, found = ask(viewer, "spots", id=key(viewer, "300K", "r1"), all=1)
    hkl = np.stack([found[f"predicted_{n}"] for n in "hkl"], axis=1)
    assert len(hkl) > 20
    places = np.stack([found[f"predicted_{n}"] for n in ("frame", "slow", "fast")], axis=1)
    for (frame, slow, fast), indices in zip(places, hkl, strict=True):
        vector = turn(frame) @ UB @ indices
        assert np.linalg.norm(vector + np.array([0, 0, K])) == pytest.approx(K)
        np.testing.assert_allclose(q_lab(slow, fast), vector, atol=1e-9)
    d = 2 * np.pi / np.linalg.norm(hkl @ UB.T, axis=1)
    np.testing.assert_allclose(found["predicted_d"], d)


def test_a_pixel_has_its_resolution_hkl_and_the_reasons_of_its_mask(viewer: server.Server) -> None:
    code, found = ask(
        viewer, "pixel", id=key(viewer, "300K", "r1"), frame=6.5, slow=30.5, fast=20.5
    )
    assert code == 200
    vector = q_lab(np.array(30.5), np.array(20.5))
    assert found["q"] == pytest.approx(np.linalg.norm(vector))
    assert found["d"] == pytest.approx(2 * np.pi / np.linalg.norm(vector))
    along = (vector / K + [0, 0, 1])[2]
    assert found["two_theta"] == pytest.approx(np.degrees(np.arccos(along)))
    np.testing.assert_allclose(found["hkl"], np.linalg.solve(UB, turn(6.5).T @ vector))
    assert found["reasons"] == ["dead", "user"]


def test_rings_have_their_resolution(viewer: server.Server) -> None:
    _, found = ask(viewer, "rotation", id=key(viewer, "300K", "r1"))
    assert found["frames"] == N
    assert len(found["rings"]) >= 3
    for ring in found["rings"]:
        slow, fast = (np.array(ring[name], dtype=float) for name in ("slow", "fast"))
        inside = (slow > 0) & (slow < SLOW) & (fast > 0) & (fast < FAST)
        assert inside.any()
        length = np.linalg.norm(q_lab(slow[inside], fast[inside]), axis=-1)
        np.testing.assert_allclose(2 * np.pi / length, ring["d"])


def test_a_rotation_that_is_only_imported(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "r1"
    alone.mkdir()
    (alone / "scan.nxs").write_bytes((folder / "out/hexa/300K/r1/scan.nxs").read_bytes())
    measured = MeasuredRotation(alone, folder)
    assert not measured.mask.any()
    assert len(measured.peaks.frame) == len(measured.predicted.frame) == 0
    np.testing.assert_array_equal(measured.image(0), expected(0, 1))
    assert measured.geometry.detector.shape == ROTATION.detector.shape
    with pytest.raises(HklflowError, match=r"orientation.json is not there yet; run `snakemake`"):
        measured.hkl(0, 0, 0)


@pytest.mark.parametrize(
    ("what", "query", "sentence"),
    [
        ("frame", {"first": N}, "there are frames 0 to 8, not 9 to 9"),
        ("frame", {"first": 0, "n": 0}, "there are frames 0 to 8, not 0 to -1"),
        ("frame", {"n": 201}, "201 frames at once are too many; choose at most 200"),
        ("frame", {"how": "mean"}, "how: 'mean' is neither sum nor maximum"),
        ("frame", {"window": "0,99,0,9"}, "0 to 99 and 0 to 9 are not within 60 x 50 pixels"),
        ("frame", {"all": 1}, "run `snakemake`, which sums the frames"),
        ("pixel", {"slow": 1, "fast": 1}, "frame is missing"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    viewer: server.Server, what: str, query: dict[str, Any], sentence: str
) -> None:
    code, found = ask(viewer, what, id=key(viewer, "300K", "r1"), **query)
    assert code == 422
    assert sentence in found["error"]


def test_a_link_to_another_folder_is_not_shown(viewer: server.Server, folder: Path) -> None:
    for what in ("rotation", "frame", "spots", "peaks"):
        code, found = ask(viewer, what, id=key(viewer, "100K", "r1"))
        assert code == 422
        assert "is a link to another folder" in found["error"]


def test_a_rotation_that_is_imported_again_is_read_again(
    viewer: server.Server, folder: Path
) -> None:
    """Found peaks are kept between requests; a new table must not show the old ones."""
    path = folder / "out/hexa/300K/r1/peaks.nxs"
    old = path.read_bytes()
    this = key(viewer, "300K", "r1")
    assert len(ask(viewer, "peaks", id=this)[1]["frame"]) == 12
    from hklflow import nexus

    try:
        path.unlink()
        nexus.write_peaks(path, peak_table().select(np.arange(5)))
        assert len(ask(viewer, "peaks", id=this)[1]["frame"]) == 5
    finally:
        path.write_bytes(old)


def test_there_is_no_such_rotation(folder: Path) -> None:
    with pytest.raises(HklflowError, match="no rotation 'r9' of hexa 300K; the rotations are r1"):
        hklflow.open(folder).rotation("hexa", "300K", "r9")
