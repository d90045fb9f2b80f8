"""Map of the differences between rotations, against a region whose intensity is wrong."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from hklflow import nexus
from hklflow.geometry.grid import Grid
from hklflow.stages import merge
from hklflow.volumes.disagreement import DisagreementMap

CELL = np.array([4.8, 5.1, 7.15, 90.0, 90.0, 120.0])
# The last cubes along each axis are cut by the end of the grid.
GRID = Grid(np.array([-3.0, -2.0, -1.0]), np.array([0.1, 0.1, 0.05]), (70, 75, 44))
WRONG = np.s_[16:32, 40:64, 8:40]  # whole cubes of the volume (l, k, h)
FACTOR = 1.1


def rotations(folder: Path, factor: float = FACTOR) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """Three rotations r1, r2, r3 of smooth scattering; r2 is too strong in one region."""
    rng = np.random.default_rng(9)
    shape = (3, *GRID.array_shape)
    norm = (rng.uniform(1, 3, shape) * (rng.random(shape) < 0.7)).astype(np.float32)
    norm[0, :10] = 0
    signal = 16 + 8 * np.cos(np.arange(shape[1]) / 6)[:, None, None]
    expected = norm * signal
    expected[1][WRONG] *= factor
    counts = rng.poisson(expected).astype(np.uint32)
    paths = []
    for i in range(3):
        paths.append(folder / f"r{i + 1}" / "transform.nxs")
        paths[-1].parent.mkdir(parents=True)
        writer = nexus.VolumeWriter(paths[-1], GRID, CELL, "t", np.uint32, False, fast=True)
        with writer:
            for first in range(0, shape[1], 16):
                own = slice(first, first + 16)
                writer.write(first, counts=counts[i, own], norm=norm[i, own])
            writer.note({})
    return paths, counts.astype(np.float64), norm.astype(np.float64)


def merged(paths: list[Path], folder: Path, **params: float) -> Path:
    out = merge.Outputs(
        volume=folder / "merged.nxs",
        slices=folder / "slices.png",
        coverage=folder / "coverage.png",
        metrics=folder / "merged.json",
    )
    given = merge.Params(bragg_radius=0, **params)
    merge.main(inputs=merge.Inputs(volumes=paths), outputs=out, params=given)
    return out.volume


def cubes_of(region: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(part.start // 8, part.stop // 8) for part in region)


def test_the_region_that_is_wrong_is_found_with_its_size(tmp_path: Path) -> None:
    paths, _, _ = rotations(tmp_path)
    with h5py.File(merged(paths, tmp_path)) as file:
        group = file["entry/disagreement"]
        each = group["rotations"]
        difference, sigma = each["difference"][()], each["difference_errors"][()]
        significance = group["significance"][()]
        assert each["rotation"].attrs["names"].tolist() == ["r1", "r2", "r3"]
        axes = [group[name][()] for name in group.attrs["axes"]]
    inside = np.zeros(difference.shape[1:], bool)
    inside[cubes_of(WRONG)] = True
    # A rotation with f times the intensity of the others: d = 2 (f - 1) / (f + 1); the others
    # together have f = 1/(1 + (FACTOR - 1)/2), for the norms are alike.
    for i, other in enumerate((None, FACTOR, None)):
        f = other or 2 / (1 + FACTOR)
        expected = np.where(inside, 2 * (f - 1) / (f + 1), 0.0)
        pulls = (difference[i] - expected) / sigma[i]
        pulls = pulls[np.isfinite(pulls)]
        assert len(pulls) > 400
        assert abs(pulls.mean()) < 0.15
        assert pulls.std() == pytest.approx(1, abs=0.1)
    assert significance[inside].min() > 3
    assert significance[~inside & np.isfinite(significance)].max() < 6
    np.testing.assert_allclose(
        significance, np.nanmax(np.abs(difference / sigma), axis=0), rtol=1e-4
    )
    # Centres of the cubes; the last is cut by the end of the grid.
    for axis, i in zip(axes, (2, 1, 0), strict=True):
        voxels = GRID.axis(i)
        centres = [voxels[n : n + 8].mean() for n in range(0, len(voxels), 8)]
        np.testing.assert_allclose(axis, centres)
    worst = json.loads((tmp_path / "merged.json").read_text())["largest difference"]
    assert worst["rotation"] == "r2"
    assert worst["difference"] == pytest.approx(2 * (FACTOR - 1) / (FACTOR + 1), abs=0.06)
    for i in range(3):
        voxels = GRID.axis(i)[WRONG[2 - i]]
        assert voxels[0] < worst["hkl"][i] < voxels[-1]


def test_the_sums_are_those_of_the_voxels(tmp_path: Path) -> None:
    paths, counts, norm = rotations(tmp_path, 1.0)
    with h5py.File(merged(paths, tmp_path, slab=16)) as file:
        difference = file["entry/disagreement/rotations/difference"][()]
        sigma = file["entry/disagreement/rotations/difference_errors"][()]
    for at in ((0, 0, 0), (3, 4, 5), (5, 9, 8)):
        cube = (slice(None), *(slice(8 * i, 8 * i + 8) for i in at))
        c, m = counts[cube], norm[cube]
        for i in range(3):
            total, both = c.sum(axis=0), (m[i] > 0) & (m.sum(axis=0) - m[i] > 0)
            both &= total >= 1
            if not both.any():
                assert np.isnan(difference[i, *at])
                continue
            p = m[i][both] / m.sum(axis=0)[both]
            x = (c[i][both] - p * total[both]).sum()
            v = (p * (1 - p) * total[both]).sum()
            assert difference[i, *at] == pytest.approx(x / v, rel=1e-5)
            assert sigma[i, *at] == pytest.approx(v**-0.5, rel=1e-5)


def test_a_part_of_the_planes_gives_the_same_map_with_larger_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of large volumes every n-th plane is compared."""
    paths, _, _ = rotations(tmp_path)
    monkeypatch.setattr(merge, "_COMPARED", 3 * int(np.prod(GRID.array_shape)) // 3)
    with h5py.File(merged(paths, tmp_path)) as file:
        group = file["entry/disagreement/rotations"]
        region = (1, *cubes_of(WRONG))
        difference, sigma = (group[n][region] for n in ("difference", "difference_errors"))
    expected = 2 * (FACTOR - 1) / (FACTOR + 1)
    pulls = (difference - expected) / sigma
    assert 0.6 < pulls.std() < 1.5
    assert np.average(difference, weights=sigma**-2) == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
def test_a_single_rotation_has_no_map(tmp_path: Path) -> None:
    paths, _, _ = rotations(tmp_path)
    with h5py.File(merged(paths[:1], tmp_path)) as file:
        assert "disagreement" not in file["entry"]


def test_cubes_grow_with_the_grid() -> None:
    for size, edge in ((70, 8), (512, 8), (513, 16), (1001, 16), (1025, 24)):
        found = DisagreementMap(2, Grid(np.zeros(3), np.full(3, 0.01), (size, 9, 8)))
        assert found.edge == edge
        assert found.x.shape[1:] == (1, -(-9 // edge), -(-size // edge))
        assert len(found.axis(0)) == found.x.shape[3]
    blocks = np.ones((3, 2, 65))  # squares of 8 voxels
    found = DisagreementMap(1, Grid(np.zeros(3), np.full(3, 0.01), (513, 16, 40)))
    found.add(0, [14, 15, 16], 0, blocks, blocks)
    assert found.v[0, :, 0, 0].tolist() == [2 * 2 * 2, 2 * 2, 0]
    assert found.v[0, 0, 0, -1] == 2 * 2 * 1
    assert found.difference[0, 0, 0, 0] == 1
    assert found.worst(["r"]) is not None
    assert DisagreementMap(1, GRID).worst(["r"]) is None
