"""Stage `difference`: volumes whose difference is known, and the scale between them."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.stages import difference
from hklflow.volumes import difference as core
from hklflow.volumes import extrema

CELL = np.array([5.0, 5.0, 7.0, 90.0, 90.0, 90.0])
# Two layers of chunks along l, two columns of them along k and h.
GRID = Grid.symmetric([2.0, 2.0, 1.0], [0.05, 0.05, 0.05])
DIRECT = Grid.symmetric([2.0, 2.0, 1.6], [0.1, 0.1, 0.1])
#: 4/m written out: four turns about c, with and without inversion.
TURNS = [np.linalg.matrix_power(np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]]), n) for n in range(4)]
LAUE = [(sign * turn).tolist() for sign in (1, -1) for turn in TURNS]
CHANGE = {(0.5, 0.2, 0.3): 6.0, (1.5, 1.0, 0.0): -4.0}
PAIRS = {(1.0, 0.5, 0.3): 0.4, (0.5, 0.5, 1.0): -0.3}


def mates(point: Any) -> np.ndarray:
    return np.unique(np.array(LAUE) @ np.asarray(point, dtype=float), axis=0)


def blob(grid: Grid, point: Any, width: float) -> np.ndarray:
    axes = [grid.axis(i) for i in range(3)]
    total = np.zeros(grid.array_shape)
    for mate in mates(point):
        h, k, m = (np.exp(-0.5 * ((a - x) / width) ** 2) for a, x in zip(axes, mate, strict=True))
        total += m[:, None, None] * k[:, None] * h
    return total


def symmetric(noise: np.ndarray) -> np.ndarray:
    """The mean of equivalents under 4/m, of which each voxel has eight (on c and in ab, fewer)."""
    turned = [np.rot90(noise, n, axes=(2, 1)) for n in range(4)]
    half = np.mean(turned, axis=0)
    return (half + half[::-1, ::-1, ::-1]) / 2


def noisy(true: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With equal errors of equivalents, as symmetrised volumes have them."""
    noise = symmetric(rng.normal(size=true.shape))
    # Off the axes the mean of eight has this width; on them the mean of fewer is wider.
    return true + sigma * np.sqrt(8) * noise * fewer(true.shape)


def fewer(shape: tuple[int, ...]) -> np.ndarray:
    """What makes the mean of equivalents as wide on special positions as on others."""
    n = [np.arange(s) - s // 2 for s in shape]
    l, k, h = np.meshgrid(*n, indexing="ij")  # noqa: E741
    stabiliser = np.where((h == 0) & (k == 0), np.where(l == 0, 8, 4), np.where(l == 0, 2, 1))
    return 1 / np.sqrt(stabiliser)


def write(
    path: Path,
    grid: Grid,
    data: np.ndarray,
    errors: np.ndarray,
    notes: dict[str, Any],
    cell: np.ndarray = CELL,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    direct = "q_max" in notes
    with nexus.GridWriter(
        path,
        grid,
        cell,
        "volume",
        {"data": np.float32, "data_errors": np.float32},
        group="pdf" if direct else "transform",
        direct=direct,
    ) as writer:
        writer.write(0, data=data.astype(np.float32), data_errors=errors.astype(np.float32))
        writer.note(notes)
    return path


HOLE = np.s_[3:9, 10:20, 5:9]
OTHER_HOLE = np.s_[20:22, 30:33, 50:60]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> difference.Inputs:
    """Two scans; the first is warmer by CHANGE and PAIRS, brighter by 7 %."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(3)
    h, k, m = (GRID.axis(i) for i in range(3))
    smooth = symmetric(1 + 0.2 * np.cos(h) * np.cos(k[:, None]) + 0.1 * m[:, None, None] ** 2)
    changes = sum(size * blob(GRID, place, 0.08) for place, size in CHANGE.items())
    s0 = smooth + 400 * blob(GRID, (1, 0, 0), 0.03)
    sigmas = [0.3 * np.sqrt(smooth), 0.2 * np.sqrt(smooth)]
    one = noisy(1.07 * s0 + changes, sigmas[0], rng)
    other = noisy(s0, sigmas[1], rng)
    one[HOLE], sigmas[0][HOLE] = np.nan, np.nan
    other[OTHER_HOLE], sigmas[1][OTHER_HOLE] = np.nan, np.nan
    pairs = sum(size * blob(DIRECT, place, 0.15) for place, size in PAIRS.items())
    p0 = 30 * blob(DIRECT, (0, 0, 0), 0.1) + 0.5 * blob(DIRECT, (1, 1, 0), 0.2)
    flat = [np.full(p0.shape, 0.02), np.full(p0.shape, 0.01)]
    laue, q = {"operations": LAUE}, {"q_max": 10.0, "kind": "delta"}
    return difference.Inputs(
        symmetrised=write(folder / "a/symm.nxs", GRID, one, sigmas[0], laue),
        reference=write(folder / "b/symm.nxs", GRID, other, sigmas[1], laue),
        delta_pdf=write(folder / "a/pdf.nxs", DIRECT, noisy(p0 + pairs, flat[0], rng), flat[0], q),
        reference_pdf=write(folder / "b/pdf.nxs", DIRECT, noisy(p0, flat[1], rng), flat[1], q),
    )


def run(inputs: difference.Inputs, folder: Path, **params: Any) -> difference.Outputs:
    outputs = difference.Outputs(
        difference=folder / "difference.nxs",
        pdf_difference=folder / "pdf_difference.nxs",
        picture=folder / "difference.png",
        metrics=folder / "difference.json",
    )
    stage.run(
        difference.main,
        inputs=inputs,
        outputs=outputs,
        params=difference.Params(**params),
        threads=1,
    )
    return outputs


@pytest.fixture(scope="module")
def plain(scans: difference.Inputs, tmp_path_factory: pytest.TempPathFactory) -> difference.Outputs:
    return run(scans, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def matched(
    scans: difference.Inputs, tmp_path_factory: pytest.TempPathFactory
) -> difference.Outputs:
    return run(scans, tmp_path_factory.mktemp("matched"), match_scale=True)


def test_a_correction_of_one_scan_alone_is_reported(
    scans: difference.Inputs, tmp_path: Path
) -> None:
    """The background is subtracted from the scan only."""
    made = {}
    for name, more in (("symmetrised", ["background without the crystal"]), ("reference", [])):
        data, errors = arrays(getattr(scans, name), "transform")
        notes = {"operations": LAUE, "corrected for": ["solid angle", *more]}
        made[name] = write(tmp_path / f"{name}.nxs", GRID, data, errors, notes)
    sentence = (
        "only the scan is corrected for background without the crystal: the change of S(Q) between "
        "the scans contains the correction"
    )
    told = run(scans.model_copy(update=made), tmp_path)
    assert any(sentence in x for x in stage.read_json(told.metrics)["warnings"])
    same = {"symmetrised": made["symmetrised"], "reference": tmp_path / "copy.nxs"}
    shutil.copy(made["symmetrised"], same["reference"])
    told = run(scans.model_copy(update=same), tmp_path)
    assert not stage.read_json(told.metrics)["warnings"]


def arrays(path: Path, group: str) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        own = file["entry"][group]
        return own["data"][()].astype(float), own["data_errors"][()].astype(float)


def test_the_difference_is_that_of_the_whole_volumes(
    scans: difference.Inputs, plain: difference.Outputs
) -> None:
    for a, b, c, group in (
        (scans.symmetrised, scans.reference, plain.difference, "transform"),
        (scans.delta_pdf, scans.reference_pdf, plain.pdf_difference, "pdf"),
    ):
        (one, sigma), (other, other_sigma) = arrays(a, group), arrays(b, group)
        data, errors = arrays(c, group)
        np.testing.assert_allclose(data, one - other, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(errors, np.sqrt(sigma**2 + other_sigma**2), rtol=1e-5)
    data, errors = arrays(plain.difference, "transform")
    for hole in (HOLE, OTHER_HOLE):
        assert np.isnan(data[hole]).all()
        assert np.isnan(errors[hole]).all()
    assert np.isnan(data).sum() == 6 * 10 * 4 + 2 * 3 * 10


def test_pulls_where_nothing_changed(matched: difference.Outputs) -> None:
    changed = sum(blob(GRID, place, 0.08) for place in (*CHANGE,)) > 1e-4
    changed |= blob(GRID, (1, 0, 0), 0.03) > 1e-9  # the scale's error counts in reflections
    data, errors = arrays(matched.difference, "transform")
    quarter = extrema.asymmetric(np.array(LAUE, dtype=float), [GRID.axis(i) for i in range(3)])
    pulls = (data / errors)[~changed & quarter]
    pulls = pulls[np.isfinite(pulls)]
    n = len(pulls)
    assert n > 20000
    assert abs(pulls.mean()) < 4 / np.sqrt(n)
    assert abs(pulls.std() - 1) < 4 / np.sqrt(2 * n)


def test_the_known_change_is_recovered(matched: difference.Outputs) -> None:
    data, errors = arrays(matched.difference, "transform")
    for place, size in CHANGE.items():
        shape = blob(GRID, place, 0.08)
        use = np.isfinite(data)
        weight = np.where(use, shape, 0) / np.where(use, errors, 1) ** 2
        fitted = np.sum(weight * np.where(use, data, 0)) / np.sum(weight * shape)
        # Of eight equivalents one is independent.
        assert abs(fitted - size) < 4 * np.sqrt(8 / np.sum(weight * shape))


def test_the_metrics_tell_what_changed(
    plain: difference.Outputs, matched: difference.Outputs
) -> None:
    told, after = (json.loads(o.metrics.read_text()) for o in (plain, matched))
    sigma = told["scale that would match, sigma"]
    assert abs(told["scale that would match"] - 1.07) < 4 * sigma
    assert 1e-4 < sigma < 4e-3
    assert told["scale applied to the reference"] == 1
    assert after["scale applied to the reference"] == after["scale that would match"]
    assert after["scale that would match"] == told["scale that would match"]
    before, s, pdf = told["S(Q)"], after["S(Q)"], told["3D-ΔPDF"]
    assert before["reduced chi2 of no difference"] > 1.02
    data, errors = arrays(matched.difference, "transform")
    assert s["voxels"] == np.isfinite(data).sum()
    assert s["rms difference"] == pytest.approx(np.sqrt(np.nanmean(data**2)), rel=1e-5)
    assert s["rms sigma"] == pytest.approx(np.sqrt(np.nanmean(errors**2)), rel=1e-5)
    chi2 = np.nanmean((data / errors) ** 2)
    assert s["reduced chi2 of no difference"] == pytest.approx(chi2, rel=1e-5)
    for found, truth, key in ((s, CHANGE, "hkl"), (pdf, PAIRS, "xyz")):
        places = found["most significant"]
        for row in places[:2]:
            # In direct space of a tetragonal crystal 4/m is 4/m again.
            near = [p for p in truth if np.abs(mates(p) - row[key]).max(axis=1).min() < 0.06]
            assert len(near) == 1, row
            assert np.sign(row["difference"]) == np.sign(truth[near[0]])
            assert row["significance"] == pytest.approx(row["difference"] / row["sigma"])
        significance = [abs(row["significance"]) for row in places]
        assert significance == sorted(significance, reverse=True)
        # Two changes, and noise (or what the scale's error leaves of a reflection) below.
        assert significance[1] > 2 * significance[2]
        assert significance[2] < 6


def test_nexusformat_and_silx_open_both(plain: difference.Outputs) -> None:
    import silx.io
    from nexusformat.nexus import nxload
    from silx.io import nxdata

    for path, axes in (
        (plain.difference, ["Ql", "Qk", "Qh"]),
        (plain.pdf_difference, ["z", "y", "x"]),
    ):
        group = "transform" if path == plain.difference else "pdf"
        data = nxload(str(path), "r")["entry"][group]
        assert [axis.nxname for axis in data.nxaxes] == axes
        assert data.nxerrors.shape == data.nxsignal.shape
        with silx.io.open(str(path)) as file:
            assert nxdata.get_default(file).axes_dataset_names == axes[1:]
        with nexus.open_volume(path, data.nxname) as volume:
            assert volume.notes["kind"] == "difference"
            assert volume.notes.get("q_max") == (10.0 if data.nxname == "pdf" else None)


def test_the_same_file_is_refused(scans: difference.Inputs, tmp_path: Path) -> None:
    (tmp_path / "link.nxs").symlink_to(scans.symmetrised)
    same = scans.model_copy(update={"reference": tmp_path / "link.nxs"})
    with pytest.raises(HklflowError, match="both scan and reference"):
        run(same, tmp_path)
    same = scans.model_copy(update={"reference_pdf": scans.delta_pdf})
    with pytest.raises(HklflowError, match="both scan and reference"):
        run(same, tmp_path)


def test_another_grid_is_refused_by_both_names(scans: difference.Inputs, tmp_path: Path) -> None:
    grid = Grid.symmetric([2.0, 2.0, 1.0], [0.1, 0.1, 0.1])
    flat = np.ones(grid.array_shape)
    other = write(tmp_path / "other.nxs", grid, flat, flat, {})
    with pytest.raises(HklflowError, match=r"a/symm\.nxs has another grid .* than .*other\.nxs"):
        run(scans.model_copy(update={"reference": other}), tmp_path)
    with pytest.raises(HklflowError, match="not the product"):
        run(scans.model_copy(update={"delta_pdf": other}), tmp_path)


def test_pair_distributions_of_different_kinds_are_refused(
    scans: difference.Inputs, tmp_path: Path
) -> None:
    flat = np.ones(DIRECT.array_shape)
    other = write(tmp_path / "t.nxs", DIRECT, flat, flat, {"q_max": 10.0, "kind": "total"})
    with pytest.raises(HklflowError, match=r"of the kind delta, .*t\.nxs of the kind total; give"):
        run(scans.model_copy(update={"reference_pdf": other}), tmp_path)


def test_other_reaches_of_the_pdfs_are_told(
    scans: difference.Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, errors = arrays(scans.reference_pdf, "pdf")
    other = write(tmp_path / "other.nxs", DIRECT, data, errors, {"q_max": 12.0, "kind": "delta"})
    run(scans.model_copy(update={"reference_pdf": other}), tmp_path)
    assert "q_max of the pair distributions is 10 and 12 1/Å" in capsys.readouterr().out


def test_without_common_voxels_there_is_no_scale(
    scans: difference.Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = np.full(GRID.array_shape, np.nan)
    empty = write(tmp_path / "empty.nxs", GRID, nothing, nothing, {})
    inputs = scans.model_copy(update={"reference": empty})
    outputs = run(inputs, tmp_path)
    assert "0 voxels are measured in both" in capsys.readouterr().out
    told = json.loads(outputs.metrics.read_text())
    assert told["scale that would match"] is None
    assert told["S(Q)"]["rms difference"] is None
    assert told["S(Q)"]["most significant"] == []
    with pytest.raises(HklflowError, match="0 voxels are measured in both"):
        run(inputs, tmp_path, match_scale=True)


# ------------------------------------------------------------------------- the scale


@pytest.mark.parametrize(("spread", "outliers"), [(0.3, 0.0), (1.0, 0.0), (0.3, 0.05)])
def test_the_scale_has_the_error_that_it_claims(spread: float, outliers: float) -> None:
    rng = np.random.default_rng(11)
    pulls = []
    for _ in range(300):
        true = rng.uniform(0.3, 2.0, 2000)
        sa, sb = (spread * rng.uniform(0.5, 1.5, 2000) for _ in range(2))
        a, b = rng.normal(0.8 * true, sa), rng.normal(true, sb)
        a += np.where(rng.random(2000) < outliers, rng.choice([-40.0, 40.0], 2000), 0.0)
        factor, sigma = core.fit_scale(a, sa, b, sb)
        pulls.append((factor - 0.8) / sigma)
    assert abs(np.mean(pulls)) < 4 / np.sqrt(300)
    assert abs(np.std(pulls) - 1) < 4 / np.sqrt(600)


def test_the_scale_does_not_care_which_is_the_reference() -> None:
    rng = np.random.default_rng(5)
    true = rng.uniform(0.3, 2.0, 5000)
    sa, sb = np.full(5000, 0.3), np.full(5000, 0.5)
    a, b = rng.normal(1.3 * true, sa), rng.normal(true, sb)
    forth, back = core.fit_scale(a, sa, b, sb), core.fit_scale(b, sb, a, sa)
    assert forth[0] * back[0] == pytest.approx(1, abs=1e-3 * forth[1] / forth[0])


def test_noise_has_no_scale() -> None:
    rng = np.random.default_rng(6)
    for level in (0, 5):
        a, b = rng.normal(level, 1, 1000), rng.normal(0, 1, 1000)
        with pytest.raises(HklflowError, match="only noise"):
            core.fit_scale(a, np.ones(1000), b, np.ones(1000))


# ------------------------------------------------------------------------- places


def test_maxima_do_not_depend_on_slabs() -> None:
    values = np.random.default_rng(8).normal(size=DIRECT.array_shape)
    values[4:6, :, 3:9] = np.nan
    found = []
    for step in (1, 5, 16, 33):
        strongest = extrema.Strongest(DIRECT, keep=10**6)
        for first in range(0, len(values), step):
            strongest.add(values[first : first + step])
        found.append(strongest.points())
    for points, strength in found[1:]:
        np.testing.assert_array_equal(points, found[0][0])
        np.testing.assert_array_equal(strength, found[0][1])
    # All that exceed their 26 neighbours, found by looking at each.
    padded = np.pad(np.where(np.isnan(values) | (values < 0), 0, values), 1)
    expected = 0
    for i, j, k in np.argwhere(padded > 0):
        box = padded[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2]
        expected += int(padded[i, j, k] == box.max())
    assert len(found[0][0]) == expected


def test_equivalents_count_once() -> None:
    axes = [Grid.symmetric([0.5, 0.5, 0.4], 0.1).axis(i) for i in range(3)]
    kept = extrema.asymmetric(np.array(LAUE, dtype=float), axes)
    points = np.stack(np.broadcast_arrays(axes[0], axes[1][:, None], axes[2][:, None, None]), -1)
    seen: dict[tuple[int, ...], int] = {}
    for index in np.argwhere(np.ones(kept.shape)):
        key = tuple(np.rint(10 * np.array(max(mates(points[tuple(index)]).tolist()))).astype(int))
        seen[key] = seen.get(key, 0) + int(kept[tuple(index)])
    assert set(seen.values()) == {1}


def test_vectors_turn_with_the_lattice() -> None:
    # In a monoclinic-like setting with a shear the operations of both spaces differ.
    w = np.array([[-1, 0, 0], [1, 1, 0], [0, 0, 1]])
    (turned,) = extrema.operations_of([w.tolist()], direct=True)
    h, x = np.array([1.0, 2.0, 3.0]), np.array([0.3, 0.1, -0.4])
    assert (w @ h) @ (turned @ x) == pytest.approx(h @ x)
    np.testing.assert_array_equal(extrema.operations_of([w.tolist()], direct=False), [w])
