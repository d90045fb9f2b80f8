"""Stage `merge` on volumes of several slabs, against its formulas for the whole volume at once."""

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
from hklflow.stages import merge
from hklflow.transform.estimator import dependence
from tests.patience import PATIENCE

from .poisson import intensity

CELL = np.array([4.8, 4.8, 7.15, 90.0, 90.0, 120.0])
# More than one chunk along each axis, and a last layer of fewer planes than the pool is wide.
GRID = Grid(np.array([-3.0, -2.0, -1.0]), np.array([0.1, 0.1, 0.05]), (70, 75, 49))


def truth(grid: Grid = GRID) -> np.ndarray:
    """S (l, k, h) of the crystal: waves along l, and voxels of Bragg peaks."""
    planes = np.arange(grid.array_shape[0])[:, None, None]
    spots = np.random.default_rng(100).random(grid.array_shape) < 0.005
    return 5 + 4 * np.cos(planes / 3) + 300 * spots


def rotation(path: Path, seed: int, dtype: type, grid: Grid = GRID) -> list[np.ndarray]:
    """Write a volume as the transform does; counts and norm."""
    rng = np.random.default_rng(seed)
    norm = rng.uniform(1, 9, grid.array_shape) * (rng.random(grid.array_shape) < 0.7)
    norm[:, :, seed * 10 : seed * 10 + 20] = 0
    norm = norm.astype(np.float32)
    counts = rng.poisson(norm * truth(grid)).astype(dtype)
    with nexus.VolumeWriter(path, grid, CELL, "t", dtype, False, fast=True) as writer:
        for first in range(0, grid.array_shape[0], 16):
            own = slice(first, first + 16)
            writer.write(first, counts=counts[own], norm=norm[own])
        writer.note({})
    return [counts.astype(np.float64), norm.astype(np.float64)]


def outputs(folder: Path) -> merge.Outputs:
    return merge.Outputs(
        volume=folder / "merged.nxs",
        slices=folder / "slices.png",
        coverage=folder / "coverage.png",
        metrics=folder / "merged.json",
    )


def between(volumes: list[list[np.ndarray]]) -> tuple[float, int]:
    """χ² of the rotations' counts about the rate that they share, and its degrees of freedom.

    Voxel by voxel, of the rotations that expect 25 counts or more there.
    """
    counts, norm = (np.stack([volume[i] for volume in volumes]) for i in (0, 1))
    total = norm.sum(axis=0)
    mean = np.divide(counts.sum(axis=0), total, out=np.zeros_like(total), where=total > 0)
    enough = norm * mean >= 25
    enough &= enough.sum(axis=0) >= 2
    chi2, dof = 0.0, 0
    for voxel in np.argwhere(enough.any(axis=0)):
        those = enough[:, *voxel]
        c, m = counts[:, *voxel][those], norm[:, *voxel][those]
        expected = m * c.sum() / m.sum()
        chi2 += np.sum((c - expected) ** 2 / expected)
        dof += len(c) - 1
    return chi2, dof


@pytest.mark.parametrize(
    ("dtypes", "pool", "slab"),
    [
        ((np.uint32, np.uint32, np.uint32), 2, 32),
        ((np.uint32, np.float64), 5, 1),
        ((np.uint32, np.uint32), 0, 32),
        ((np.uint32,), 2, 64),
        ((np.uint32, np.uint32), 3, 1000),
    ],
)
def test_slabs_are_as_the_whole_volume(
    tmp_path: Path, dtypes: tuple[type, ...], pool: int, slab: int
) -> None:
    paths = [tmp_path / f"{i}.nxs" for i in range(len(dtypes))]
    volumes = [
        rotation(path, i, dtype) for i, (path, dtype) in enumerate(zip(paths, dtypes, strict=True))
    ]
    out = outputs(tmp_path)
    params = merge.Params(pool=pool, slab=slab)
    merge.main(inputs=merge.Inputs(volumes=paths), outputs=out, params=params)
    counts, norm = (np.sum([volume[i] for volume in volumes], axis=0) for i in (0, 1))
    measured = norm > 0
    data, errors = intensity(counts, norm, pool)
    with h5py.File(out.volume) as file:
        group = file["entry/transform"]
        whole = np.float64 not in dtypes
        assert group["counts"].dtype == (np.uint64 if whole else np.float64)
        np.testing.assert_array_equal(group["counts"][()], counts)
        for name, array in (("norm", norm), ("data", data)):
            np.testing.assert_array_equal(group[name][()], array.astype(np.float32))
        np.testing.assert_allclose(group["data_errors"][()], errors, rtol=2e-7)
        pull = ((group["data"][()] - truth()) / group["data_errors"][()])[measured]
    # On its own a voxel's σ shares the count with S: see the page on the estimator.
    assert abs(pull.mean()) < (0.03 if pool else 0.2)
    assert pull.std() == pytest.approx(1, abs=0.03 if pool else 0.1)
    metrics = json.loads(out.metrics.read_text())
    chi2, dof = between(volumes)
    assert metrics["rotations' degrees of freedom"] == dof
    assert "warnings" not in metrics
    if len(dtypes) > 1:
        assert dof > 10000
        assert metrics["rotations' reduced chi2"] == pytest.approx(chi2 / dof, rel=1e-11)
        # They are of one crystal.
        assert chi2 / dof == pytest.approx(1, abs=5 * np.sqrt(2 / dof))
        away = metrics["rotations' reduced chi2 away from reflections"]
        assert away == pytest.approx(1, abs=0.05)
    else:
        assert dof == 0
        assert metrics["rotations' reduced chi2"] is None
    assert metrics["voxels measured"] == np.count_nonzero(norm)
    assert metrics["voxels in the grid"] == norm.size
    assert metrics["coverage"] == np.count_nonzero(norm) / norm.size
    assert metrics["mean counts per measured voxel"] == pytest.approx(
        counts.sum() / np.count_nonzero(norm), rel=1e-12
    )
    assert out.slices.stat().st_size > 10000
    assert out.coverage.stat().st_size > 10000


def test_one_measurement_that_is_counted_twice_fails(tmp_path: Path) -> None:
    """Two rotations of the same counts, the second on a scale that is 1 % off."""
    paths = [tmp_path / "0.nxs", tmp_path / "1.nxs"]
    counts, norm = rotation(paths[0], 0, np.uint32)
    with nexus.VolumeWriter(paths[1], GRID, CELL, "t", np.uint32, False, fast=True) as writer:
        for first in range(0, GRID.array_shape[0], 16):
            own = slice(first, first + 16)
            writer.write(first, counts=counts[own].astype(np.uint32), norm=1.01 * norm[own])
        writer.note({})
    out = outputs(tmp_path)
    merge.main(inputs=merge.Inputs(volumes=paths), outputs=out, params=merge.Params())
    metrics = json.loads(out.metrics.read_text())
    assert metrics["rotations' reduced chi2"] < 0.01
    assert "warnings" not in metrics  # one fact, one sentence
    (failure,) = metrics["failures"]
    assert failure.startswith(f"{paths[0]} and {paths[1]} are one measurement that counts twice")
    assert "`hklflow check`" in failure


def test_error_bars_that_are_a_little_too_large_are_no_copies() -> None:
    """χ²/dof of 1/1.2², however many voxels; and few voxels prove nothing."""
    assert dependence(97_734 / 1.2**2, 97_734) is None
    assert dependence(0.4 * 20, 20) is None
    assert dependence(float("nan"), 0) is None
    assert dependence(0.136 * 97_734, 97_734) is not None


@pytest.mark.slow
def test_the_command_reads_packed_volumes(tmp_path: Path) -> None:
    """On its own, where nothing else has loaded the filter of the transform's volumes."""
    rotation(tmp_path / "0.nxs", 0, np.uint32)
    out = outputs(tmp_path)
    given = [f"--{name.replace('_', '-')}={path}" for name, path in out.model_dump().items()]
    command = [sys.executable, "-m", "hklflow.stages.merge", "--volumes", str(tmp_path / "0.nxs")]
    subprocess.run([*command, *given], check=True, capture_output=True, timeout=PATIENCE)
    assert out.volume.is_file()


def test_other_grids_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "0.nxs", tmp_path / "1.nxs"]
    rotation(paths[0], 0, np.uint32)
    rotation(paths[1], 1, np.uint32, Grid(GRID.first, GRID.step, (70, 75, 48)))
    with pytest.raises(HklflowError, match="transform them with the same parent"):
        merge.main(
            inputs=merge.Inputs(volumes=paths), outputs=outputs(tmp_path), params=merge.Params()
        )
