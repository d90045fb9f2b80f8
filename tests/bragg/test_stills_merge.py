"""Still frames are merged to the intensities of a crystal that rays have measured."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hklflow.base.errors import HklflowError
from hklflow.bragg import reindexing
from hklflow.bragg.stills import Stills, cell_length, joined, no_stills
from hklflow.geometry import symmetry
from hklflow.nexus.stills import read_stills, write_stills
from hklflow.stages import merge_stills
from tests.truth.still_rays import Rays
from tests.truth.still_tables import compared, indexed, with_double_axis

WORLD = Rays()
FEW = 12


@pytest.fixture(scope="module")
def few() -> Stills:
    return indexed(WORLD, FEW, 0.05)


def merge(folder: Path, *batches: tuple[Stills, dict[int, str]], **params: Any) -> dict[str, Any]:
    """Run the stage; return its metrics."""
    paths = []
    for number, (stills, rejected) in enumerate(batches):
        paths.append(folder / f"batch_{number}.nxs")
        write_stills(paths[-1], stills, rejected, "batch")
    kinds = {"factors": "nxs", "metrics": "json", "picture": "png", "page": "html"}
    names = merge_stills.Outputs.model_fields
    outputs = {name: folder / f"{name}.{kinds.get(name, 'txt')}" for name in names}
    merge_stills.main(
        inputs=merge_stills.Inputs(batches=paths),
        outputs=merge_stills.Outputs(**outputs),
        params=merge_stills.Params(sample="hex", **params),
    )
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "frames.txt").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def spread(pulls: Any) -> float:
    return float(1.4826 * np.median(np.abs(pulls)))


@pytest.mark.slow
def test_merged_intensities_and_errors_are_right(tmp_path: Path) -> None:
    """60 frames, three of them of another structure, orientations 0.1 degrees off."""
    bad = (4, 21, 47)
    metrics = merge(tmp_path, (indexed(WORLD, 60, 0.1, pollution=bad), {}))
    correlation, pulls = compared(WORLD, tmp_path / "factors.nxs")
    assert correlation > 0.99
    assert 0.8 < spread(pulls) < 1.25
    # The model of partiality finds the node of the rays.
    found = metrics["partiality"]
    size = found["size of a node (1/Å, with 2π)"]
    assert size == pytest.approx(2 * np.pi * WORLD.block, rel=0.25)
    mosaic = found["mosaic spread with the error of the orientations (degrees)"]
    assert mosaic == pytest.approx(np.degrees(WORLD.mosaic), rel=0.15)
    # Frames of the other structure are left out, and hardly another.
    left = {int(row["frame"]) for row in rows(tmp_path) if row["used"] == "no"}
    assert set(bad) <= left
    assert len(left) <= 6
    assert not any("cells of the frames" in text for text in metrics["warnings"])


@pytest.mark.slow
def test_frames_with_two_indexings_are_brought_together(tmp_path: Path) -> None:
    world = replace(WORLD, mirrors=False)
    metrics = merge(tmp_path, (indexed(world, 60, 0.08, flips=True), {}))
    assert metrics["indexing"]["operations"] == 1
    # No frame has the wrong indexing.
    flipped = int(np.sum(np.random.default_rng(3).random(60) < 0.5))  # as in `indexed`
    assert set(metrics["indexing"]["frames of each indexing"]) == {flipped, 60 - flipped}
    # A frame compares 34 reflections, so its lead of 0.57 on average has an error of 0.2: of 60
    # frames, 0.6 are expected below the limit of 0.1, and more than 2 with a probability of 2 %.
    assert metrics["indexing"]["frames without a clear choice"] <= 2
    found = [compared(world, tmp_path / "factors.nxs", other) for other in (False, True)]
    correlation, pulls = max(found, key=lambda one: one[0])
    assert correlation > 0.99
    assert min(one[0] for one in found) < 0.9
    assert 0.8 < spread(pulls) < 1.25


def test_indexings_are_chosen_alike() -> None:
    world = replace(WORLD, mirrors=False, n_rays=60)
    stills = indexed(world, 20, 0.05, flips=True)
    group = symmetry.space_group("P 6/m")
    operations = symmetry.reindexing_operators(stills.cell, group)
    found = reindexing.choose(stills, group, operations, seed=0)
    flip = np.random.default_rng(3).random(20) < 0.5  # as in `indexed`
    assert np.mean((found.operation == 1) == flip) in (0.0, 1.0)


@pytest.mark.parametrize(("b", "told"), [(26.25, True), (26.0, False)])
def test_axes_that_are_nearly_alike_are_told_by_the_cells(
    few: Stills, b: float, *, told: bool
) -> None:
    rng = np.random.default_rng(8)
    cell = (26.0, b, 33.0, 90.0, 90.0, 90.0)
    strained = np.diag(1 / np.array(cell[:3])) + 2e-5 * rng.normal(size=(FEW, 3, 3))
    right = 2 * np.pi * Rotation.random(FEW, rng=rng).as_matrix() @ strained
    frames = replace(few, cell=cell, frames=replace(few.frames, ub=right))
    operations = symmetry.reindexing_operators(cell, symmetry.space_group("P m m m"))
    every = np.stack([np.eye(3), *operations])
    exchanged = reindexing.reindexed(frames, every, np.arange(FEW) % 2 * (len(every) - 1))
    found = reindexing.by_cell(exchanged, operations)
    wanted = frames if told else exchanged
    np.testing.assert_allclose(found.frames.ub, wanted.frames.ub)
    np.testing.assert_array_equal(found.reflections.hkl, wanted.reflections.hkl)
    np.testing.assert_array_equal(found.spots.hkl, wanted.spots.hkl)
    assert len(reindexing.not_by_cell(found, operations)) == (0 if told else len(operations))


def test_too_few_frames_for_one_indexing_are_reported(tmp_path: Path) -> None:
    """Frames with some common reflections do not tell the indexings of a hexagonal lattice."""
    world = replace(WORLD, mirrors=False, n_rays=60)
    metrics = merge(tmp_path, (indexed(world, 6, 0.05, flips=True), {}))
    n = metrics["indexing"]["frames without a clear choice"]
    assert n > 0
    assert any(text.startswith("frames that fit another indexing") for text in metrics["warnings"])


def test_batches_and_missing_frames_are_reported(tmp_path: Path, few: Stills) -> None:
    first = few.select(few.frames.number < 8)
    second = few.select(few.frames.number >= 8)
    nothing = no_stills(few.detector, few.beam, few.cell, few.space_group)
    metrics = merge(
        tmp_path,
        (first, {12: "too few spots"}),
        (nothing, {13: "too few spots", 14: "the file ends", 15: "the file ends"}),
        (second, {}),
    )
    assert metrics["frames"] == 16
    assert metrics["indexed frames"] == FEW
    told = "batch 1 has none of its 3 frames: the file ends (2 of them)"
    assert told in metrics["warnings"]
    table = rows(tmp_path)
    assert [int(row["frame"]) for row in table] == list(range(16))
    assert [row["reason"] for row in table][12:] == [*["too few spots"] * 2, *["the file ends"] * 2]
    assert compared(WORLD, tmp_path / "factors.nxs")[0] > 0.95
    assert "batch 1 has none" in (tmp_path / "page.html").read_text()


def test_a_file_of_a_batch_is_read_as_it_was_written(tmp_path: Path, few: Stills) -> None:
    write_stills(tmp_path / "a.nxs", few, {3: "not indexed"}, "batch")
    again, rejected = read_stills(tmp_path / "a.nxs")
    assert rejected == {3: "not indexed"}
    for name in ("frames", "spots", "reflections"):
        for key, value in vars(getattr(few, name)).items():
            np.testing.assert_array_equal(getattr(getattr(again, name), key), value)
    assert again.beam == few.beam
    np.testing.assert_allclose(again.detector.origin, few.detector.origin)
    both = joined([few, again])
    assert len(both.frames) == 2 * FEW
    assert both.reflections.frame.max() == 2 * FEW - 1


def test_cells_that_are_all_too_long_are_reported(tmp_path: Path, few: Stills) -> None:
    """A detector stated 0.3 % too far makes every cell 0.3 % longer."""
    rng = np.random.default_rng(2)
    scales = 1.003 * (1 + 3e-4 * rng.normal(size=(FEW, 1, 1)))
    frames = replace(few.frames, ub=few.frames.ub / scales)
    assert cell_length(replace(few, frames=frames)).value == pytest.approx(1.003, abs=3e-4)
    metrics = merge(tmp_path, (replace(few, frames=frames), {}), partiality="none")
    assert any("as if the stated distance were 0.30% too long" in w for w in metrics["warnings"])


def test_a_cell_that_is_too_large_is_reported(tmp_path: Path, few: Stills) -> None:
    """Every spot lies on the lattice of a doubled cell, too; the new nodes have no intensity."""
    told = [
        [text for text in merge(tmp_path, (stills, {}))["warnings"] if "cell is too large" in text]
        for stills in (few, with_double_axis(few))
    ]
    assert not told[0]
    assert len(told[1]) == 1
    assert "reflections with l ≠ 2n have no intensity" in told[1][0]


def test_no_frames_are_an_error(tmp_path: Path, few: Stills) -> None:
    nothing = no_stills(few.detector, few.beam, few.cell, few.space_group)
    with pytest.raises(HklflowError, match=r"none of the 2 frames of hex is indexed \(dark\)"):
        merge(tmp_path, (nothing, {0: "dark", 1: "dark"}))
