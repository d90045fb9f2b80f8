"""Stage `symmetrise` on files: what it writes, says and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hklflow import nexus
from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.stages import symmetrise
from tests.patience import PATIENCE
from tests.truth.orientations import write_orientation

from .poisson import intensity

CELL = np.array([4.8, 4.8, 7.15, 90.0, 90.0, 120.0])
# More than one chunk along each axis; images lie partly outside.
GRID = Grid(np.array([-3.0, -2.0, -1.0]), np.array([0.1, 0.1, 0.05]), (66, 75, 49))
SYMBOL = "P 6/m m m"


def rotation(
    path: Path, seed: int, dtype: type = np.uint32, grid: Grid = GRID, read: float = 0.0
) -> list[np.ndarray]:
    """Write a volume as the transform does; counts, norm and variance."""
    rng = np.random.default_rng(seed)
    norm = rng.integers(1, 9, grid.array_shape) * (rng.random(grid.array_shape) < 0.5)
    norm[:, :, seed * 10 : seed * 10 + 20] = 0
    counts = rng.poisson(5 * norm) + read * rng.normal(size=norm.shape) * (norm > 0)
    counts, norm = counts.astype(dtype), norm.astype(np.float32)
    variance = (5 * norm + read**2 * (norm > 0)).astype(np.float32)
    with nexus.VolumeWriter(
        path, grid, CELL, "t", dtype, False, fast=True, variance=read > 0
    ) as writer:
        more = {"variance": variance} if read > 0 else {}
        writer.write(0, counts=counts, norm=norm, **more)
        writer.note({"corrected for": ["solid angle"]})
    return [counts.astype(float), norm.astype(float), variance.astype(float)]


def run(folder: Path, paths: list[Path], **settings: object) -> tuple[h5py.Group, dict, Path]:
    """Run the stage; the volume's arrays, metrics and the file."""
    folder.mkdir(exist_ok=True)
    orientation = write_orientation(folder / "orientation.json", group=SYMBOL)
    out = symmetrise.Outputs(
        symmetrised=folder / "symm.nxs", picture=folder / "symm.png", metrics=folder / "symm.json"
    )
    symmetrise.main(
        inputs=symmetrise.Inputs(volumes=paths, orientation=orientation),
        outputs=out,
        params=symmetrise.Params(**settings),
        threads=2,
    )
    assert out.picture.stat().st_size > 10000
    with h5py.File(out.symmetrised) as file:
        arrays = {n: d[()] for n, d in file["entry/transform"].items() if d.ndim == 3}
    return arrays, json.loads(out.metrics.read_text()), out.symmetrised


# On columns of hkl: the six-fold axis, and the mirror that 6/mmm has and 6/m has not.
SIX_FOLD = np.array([[0, -1, 0], [1, 1, 0], [0, 0, 1]])
SWAP = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])


def laue(mirrors: bool) -> list[np.ndarray]:
    """The 24 operations of 6/mmm, or the 12 of 6/m."""
    return [
        sign * np.linalg.matrix_power(SIX_FOLD, n) @ swap
        for sign in (1, -1)
        for n in range(6)
        for swap in ((np.eye(3, dtype=int), SWAP) if mirrors else (np.eye(3, dtype=int),))
    ]


def expected(volumes: list[list[np.ndarray]], mirrors: bool = True) -> list[np.ndarray]:
    """Sums over orbits: voxels whose images have the same last of all in some order."""
    hkl = np.stack(
        np.meshgrid(*(np.rint(GRID.axis(i) / GRID.step[i]) for i in (2, 1, 0)), indexing="ij"), -1
    ).reshape(-1, 3)[:, ::-1]
    last = np.max([hkl @ w.T @ [10**6, 10**3, 1] for w in laue(mirrors)], axis=0)
    orbit = np.unique(last, return_inverse=True)[1].ravel()
    given = [sum(v[i] for v in volumes) for i in range(3)]
    given.append(sum((v[1] > 0).astype(float) for v in volumes))
    return [np.bincount(orbit, a.ravel())[orbit].reshape(a.shape) for a in given]


def test_rotations_become_one_symmetric_volume(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.nxs" for i in range(2)]
    volumes = [rotation(path, i) for i, path in enumerate(paths)]
    found, metrics, path = run(tmp_path / "a", paths)
    counts, norm, _, many = expected(volumes)
    assert found["counts"].dtype == np.uint32
    np.testing.assert_array_equal(found["counts"], counts)
    np.testing.assert_array_equal(found["norm"], norm)
    np.testing.assert_array_equal(found["multiplicity"], many)
    data, errors = intensity(counts, norm, 2)
    np.testing.assert_array_equal(found["data"], data.astype(np.float32))
    np.testing.assert_allclose(found["data_errors"], errors, rtol=2e-7)
    assert np.nanmean(found["disagreement"]) == pytest.approx(1, abs=0.03)
    assert metrics["Laue group"] == "6/mmm"
    assert (metrics["operations"], metrics["exact"]) == (24, True)
    measured = (volumes[0][1] > 0) | (volumes[1][1] > 0)
    assert metrics["coverage before"] == measured.mean()
    assert metrics["coverage after"] == (norm > 0).mean()
    assert metrics["reduced chi2 of equivalents"] == pytest.approx(1, abs=0.02)
    assert metrics["observations rejected"] == 0
    assert metrics["observations rejected by volume"] == {str(p): 0 for p in paths}
    assert abs(metrics["CC1/2"]) < 0.05
    shells = metrics["by shell"]
    assert len(shells["CC1/2"]) == len(shells["edges in 1/Å"]) - 1
    with nexus.open_volume(path) as volume:
        operations = np.array(volume.notes["operations"])
        assert volume.notes["space_group"] == SYMBOL
        assert volume.corrections == ["solid angle"]
    assert sorted(operations.tolist()) == sorted(w.tolist() for w in laue(mirrors=True))
    np.testing.assert_array_equal(operations[0], np.eye(3))
    # One merged volume gives the same sums; that it is symmetrised twice is refused.
    with pytest.raises(HklflowError, match=r"symm\.nxs is symmetrised already"):
        run(tmp_path / "b", [path])


@pytest.mark.slow
@pytest.mark.pictures
def test_little_memory_gives_the_same_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"{i}.nxs" for i in range(2)]
    for i, path in enumerate(paths):
        rotation(path, i)
    large, told, _ = run(tmp_path / "a", paths, n_sigma=3.0)
    small, also, _ = run(tmp_path / "b", paths, n_sigma=3.0, memory=5)
    for name, array in large.items():
        np.testing.assert_array_equal(small[name], array)
    for key, value in told.items():
        assert also[key] == value, key
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "orientation.json", "symm.json", "symm.nxs", "symm.png",
    ]  # fmt: skip
    assert "symmetrised by 6/mmm: coverage" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.pictures
def test_read_noise_is_kept(tmp_path: Path) -> None:
    paths = [tmp_path / "0.nxs", tmp_path / "1.nxs"]
    volumes = [rotation(paths[0], 0, np.float64, read=3.0), rotation(paths[1], 1)]
    volumes[1][2] = volumes[1][0]  # of photons, the counts
    found, metrics, _ = run(tmp_path / "a", paths, symmetry="P 6/m")
    counts, norm, variance, _ = expected(volumes, mirrors=False)
    np.testing.assert_allclose(found["counts"], counts, rtol=1e-12, atol=1e-9)
    assert metrics["Laue group"] == "6/m"
    assert metrics["observations rejected"] <= 2
    # Of single observations, the read part cannot be below 0.
    seen = norm > 0
    assert np.all(found["variance"][seen] >= 0.999 * variance[seen])
    np.testing.assert_allclose(found["variance"].sum(), variance.sum(), rtol=0.1)


@pytest.mark.slow
@pytest.mark.pictures
def test_large_counts_stay_exact(tmp_path: Path) -> None:
    path = tmp_path / "0.nxs"
    volume = rotation(path, 0)
    with h5py.File(path, "r+") as file:
        stored = file["entry/transform/counts"]
        block = stored[:16]
        block[:] = np.where(block > 0, 4_000_000_001, 0)
        stored[:16] = block
        volume[0] = stored[()].astype(float)
    found, _, _ = run(tmp_path / "a", [path], n_sigma=1e6)
    assert found["counts"].dtype == np.uint64
    np.testing.assert_array_equal(found["counts"], expected([volume])[0])


def test_unequal_steps_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = Grid(np.array([-2.0, -2.1, -1.0]), np.array([0.1, 0.15, 0.1]), (41, 29, 21))
    rotation(tmp_path / "0.nxs", 0, grid=grid)
    found, metrics, path = run(tmp_path / "a", [tmp_path / "0.nxs"])
    told = capsys.readouterr().out
    assert "warning: only 4 of the 24 operations of 6/mmm map voxels of this grid" in told
    assert (metrics["exact"], metrics["exact operations"]) == (False, 4)
    assert found["counts"].dtype == np.float64
    with nexus.open_volume(path) as volume:
        assert "interpolated between eight voxels" in volume.notes["estimator"]
    assert np.nanmean(found["data"]) == pytest.approx(5, rel=0.01)


def test_other_grids_and_other_cells_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "0.nxs", tmp_path / "1.nxs"]
    rotation(paths[0], 0)
    rotation(paths[1], 1, grid=Grid(GRID.first, GRID.step, (40, 30, 20)))
    with pytest.raises(HklflowError, match=r"1\.nxs has another grid"):
        run(tmp_path / "a", paths)
    with pytest.raises(HklflowError, match="unknown space group ''"):
        run(tmp_path / "a", paths[:1], symmetry="")
    with pytest.raises(HklflowError, match="symmetry 'F m -3 m' does not match the cell"):
        run(tmp_path / "a", paths[:1], symmetry="F m -3 m")


def test_a_file_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "0.nxs"
    rotation(path, 0)
    with pytest.raises(HklflowError, match=r"0\.nxs is given twice: its counts"):
        run(tmp_path / "a", [path, path])
    (tmp_path / "again.nxs").symlink_to(path)
    with pytest.raises(HklflowError, match=r"again\.nxs is given twice, also as .*0\.nxs: "):
        run(tmp_path / "a", [path, tmp_path / "again.nxs"])


def test_no_volumes_at_all_are_told_in_one_sentence(tmp_path: Path) -> None:
    given = ["--orientation", "o.json", "--symmetrised", "s.nxs", "--picture", "s.png"]
    given += ["--metrics", "m.json"]
    done = subprocess.run(
        [sys.executable, "-m", "hklflow.stages.symmetrise", "--empty-volumes", *given],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--volumes: List should have at least 1 item" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.pictures
def test_norms_that_are_none_count_as_not_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without them the volumes are as if those voxels had never been measured."""
    paths = [tmp_path / "0.nxs", tmp_path / "1.nxs"]
    for i, path in enumerate(paths):
        rotation(path, i)
    at = ([20, 21, 22, 48], [10, 30, 30, 70], [41, 41, 60, 65])
    with h5py.File(paths[0], "r+") as file:
        group = file["entry/transform"]
        for name in ("counts", "norm"):
            values = group[name][()]
            values[at] = 0
            group[name][...] = values
    clean, _, _ = run(tmp_path / "a", paths)
    assert "infinite or NaN" not in capsys.readouterr().out
    with h5py.File(paths[0], "r+") as file:
        group = file["entry/transform"]
        for name, bad in (("counts", 7), ("norm", [np.nan, np.inf, -1.0, -np.inf])):
            values = group[name][()]
            values[at] = bad
            group[name][...] = values
    found, metrics, _ = run(tmp_path / "b", paths)
    for name, array in clean.items():
        np.testing.assert_array_equal(found[name], array)
    assert metrics["voxels without a usable norm"] == 4
    assert (
        f"warning: {paths[0]} has 4 voxels with infinite or NaN counts" in capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.pictures
def test_nothing_measured_is_refused_and_one_plane_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "0.nxs"
    rotation(path, 0)
    with h5py.File(path, "r+") as file:
        group = file["entry/transform"]
        for name in ("counts", "norm"):
            values = group[name][()]
            values[np.arange(len(values)) != 20] = 0  # l = 0
            group[name][...] = values
    _, metrics, _ = run(tmp_path / "a", [path])
    assert metrics["coverage after"] == pytest.approx(1 / 49, rel=0.2)
    flat = Grid(np.array([-3.0, -3.0, 0.0]), GRID.step, (61, 61, 1))
    rotation(tmp_path / "flat.nxs", 0, grid=flat)
    run(tmp_path / "c", [tmp_path / "flat.nxs"])
    with h5py.File(path, "r+") as file:
        for name in ("counts", "norm"):
            file[f"entry/transform/{name}"][...] = 0
    with pytest.raises(HklflowError, match=r"no voxel is measured in .*0\.nxs"):
        run(tmp_path / "b", [path])
    assert not (tmp_path / "b/symm.nxs").exists()
