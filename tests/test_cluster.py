"""Stage `cluster`: files in, labels, trajectories and places out, against a simulated series."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hklflow
from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.stages import cluster
from tests import taken
from tests.truth import trajectories

CELL = np.array([*trajectories.CELL, 90.0, 90.0, 90.0])


@pytest.fixture(scope="module")
def world() -> trajectories.World:
    return trajectories.world(2, sigmas=5.0, n=49, n_t=10, symmetric=True)


def write(world: trajectories.World, folder: Path, operations: Any) -> list[Path]:
    n = world.data.shape[1]
    grid = Grid(np.full(3, world.first), np.full(3, world.step), (n, n, n))
    paths = []
    for i, (data, errors) in enumerate(zip(world.data, world.errors, strict=True)):
        paths.append(folder / f"{i}K.nxs")
        norm = np.full(data.shape, world.norm[i])
        notes = {"operations": [x.tolist() for x in operations]}
        volume = nexus.Volume(grid, CELL, world.counts[i], norm, data, errors, notes)
        nexus.write_volume(paths[-1], volume, "S(Q)")
    return paths


def run(paths: list[Path], temperatures: Any, folder: Path, **params: Any) -> cluster.Outputs:
    outputs = cluster.Outputs(
        clusters=folder / "clusters.nxs",
        picture=folder / "clusters.png",
        metrics=folder / "clusters.json",
    )
    given = {"scans": [path.stem for path in paths], "temperatures": list(temperatures)}
    stage.run(
        cluster.main,
        inputs=cluster.Inputs(volumes=paths),
        outputs=outputs,
        params=cluster.Params(**given, space_group="P m m m", **params),
        threads=2,
    )
    return outputs


def test_labels_trajectories_and_places(world: trajectories.World, tmp_path: Path) -> None:
    paths = write(world, tmp_path, trajectories.MMM)
    # The scans may come in any order.
    mixed = [int(i) for i in np.random.default_rng(0).permutation(len(paths))]
    outputs = run([paths[i] for i in mixed], world.temperatures[mixed], tmp_path)
    figures = json.loads(outputs.metrics.read_text())
    assert outputs.picture.stat().st_size > 5000
    assert taken.accepted(outputs.clusters) == set()
    with h5py.File(outputs.clusters) as file:
        labels = file["entry/transform/data"][()]
        mean, at = (file[f"entry/trajectories/{name}"][()] for name in ("mean", "temperature"))
        errors = file["entry/trajectories/mean_errors"][()]
    np.testing.assert_allclose(at, world.temperatures)
    changed = world.labels > 0
    assert trajectories.rand_index(world.labels[changed], labels[changed].astype(int)) > 0.95
    assert len(figures["clusters"]) == len(mean) == 3
    np.testing.assert_array_equal(labels, labels[::-1, ::-1, ::-1])
    half = slice(len(labels) // 2, None)  # one octant holds all independent voxels
    octant = labels[half, half, half]
    for number in (1, 2, 3):
        mine = octant == number
        values, sigma = (x[:, half, half, half][:, mine] for x in (world.data, world.errors))
        np.testing.assert_allclose(mean[number - 1], values.mean(axis=1), rtol=1e-5)
        expected = np.sqrt(np.sum(sigma.astype(float) ** 2, axis=1)) / mine.sum()
        np.testing.assert_allclose(errors[number - 1], expected, rtol=1e-4)
    where = {
        (kind["shape"], kind["name"] or kind["place"])
        for found in figures["clusters"]
        for kind in found["where"]
    }
    assert {("point", "S"), ("point", "X"), ("point", "R")} <= where
    assert "rod" in {shape for shape, _ in where}
    assert "sheet" in {shape for shape, _ in where}
    # The product opens as a volume.
    assert hklflow.open(outputs.clusters) is not None


def test_refusals(world: trajectories.World, tmp_path: Path) -> None:
    paths = write(world, tmp_path, trajectories.MMM)[:6]
    with pytest.raises(HklflowError, match="needs 5 different temperatures, and the stack has 4"):
        run(paths, [10.0, 10.0, 10.0, 20.0, 30.0, 40.0], tmp_path)
    with h5py.File(paths[3], "r+") as file:
        text = json.loads(file["entry/notes/notes"][()])
        del file["entry/notes/notes"]
        file["entry/notes/notes"] = json.dumps(text | {"operations": [np.eye(3).tolist()]})
    with pytest.raises(HklflowError, match=r"3K\.nxs was symmetrised by another Laue group"):
        run(paths, range(10, 70, 10), tmp_path)
