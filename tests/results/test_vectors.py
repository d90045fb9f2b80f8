"""Sums over lattice vectors with their covariance."""

import re
from pathlib import Path

import numpy as np
import pytest

import hklflow
from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.nexus.grid_writer import GridWriter
from hklflow.nexus.lattice_vectors import write_covariance
from hklflow.results import Volume
from hklflow.stage import hole_checks
from hklflow.volumes import fill, refill
from hklflow.volumes.control import Control

CELL = np.array([4.0, 4.0, 6.0, 90.0, 90.0, 120.0])
GRID = Grid(np.full(3, -2.0), np.full(3, 0.5), (9, 9, 9))
# The threefold axis on hkl, with the inversion.
THREE = np.array([[0, 1, 0], [-1, -1, 0], [0, 0, 1]])
GROUP = np.concatenate(
    [s * np.stack([np.eye(3, dtype=int), THREE, THREE @ THREE]) for s in (1, -1)]
)
VECTORS = np.array([[0.0, 0, 0], [1, 0, 0], [0, 0, 1]])
COVARIANCE = np.array([[9.0, 0, 0], [0, 4.0, 1.0], [0, 1.0, 2.0]])


@pytest.fixture
def pdf(tmp_path: Path) -> Volume:
    """Values are 100 z + 10 y + x."""
    x, y, z = (GRID.axis(i) for i in range(3))
    data = (100 * z[:, None, None] + 10 * y[:, None] + x).astype(np.float32)
    types = {"data": np.float32, "data_errors": np.float32}
    path = tmp_path / "pdf.nxs"
    with GridWriter(path, GRID, CELL, "t", types, group="pdf", direct=True) as writer:
        writer.write(0, data=data, data_errors=np.ones_like(data))
        writer.add_group(lambda entry: write_covariance(entry, VECTORS, COVARIANCE))
        writer.note({"kind": "delta", "operations": GROUP.tolist()})
    opened = hklflow.open(path)
    assert isinstance(opened, Volume)
    return opened


def test_sums_have_the_covariance_of_their_vectors(pdf: Volume) -> None:
    value, sigma = pdf.weighted_sum([(1, 0, 0), (0, 0, 1)], [2, -1])
    assert value == pytest.approx(2 - 100)
    assert sigma == pytest.approx(np.sqrt(4 * 4 + 2 - 2 * 2))


def test_equivalent_vectors_are_one_measurement(pdf: Volume) -> None:
    """cos 2πh·x is the same for x and W⁻¹x if S(Wh) = S(h)."""
    inverse = np.linalg.inv(THREE).T
    mate = np.linalg.inv(inverse) @ VECTORS[1]
    assert np.abs(mate - VECTORS[1]).max() > 0.5
    matrix = pdf.covariance([VECTORS[1], mate, -VECTORS[2]])
    np.testing.assert_array_equal(matrix, [[4, 4, 1], [4, 4, 1], [1, 1, 2]])


@pytest.mark.parametrize(
    ("vectors", "weights", "words"),
    [
        ([(0.5, 0, 0)], [1], r"vectors: \(0.5, 0, 0\) is none of the 3 lattice vectors with a cov"),
        ([(2, 0, 0)], [1], r"vectors: \(2, 0, 0\) is none of the 3 .* at most 1 cells$"),
        ((1, 0, 0), [1], r"vectors: \(1, 0, 0\) is not a list of x, y, z; give a list"),
        ([(1, 0, 0)], [1, 2], r"weights: \[1, 2\] is not one number for each of the 1 vectors"),
        ([(1, 0, 0)], ["a"], r"weights: \['a'\] is not one number"),
    ],
)
def test_what_is_not_known_is_refused(pdf: Volume, vectors, weights, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(HklflowError, match=words):
        pdf.weighted_sum(vectors, weights)


def test_vectors_between_voxels_have_no_value(tmp_path: Path) -> None:
    grid = Grid(np.full(3, -1.2), np.full(3, 0.3), (9, 9, 9))
    path, types = tmp_path / "pdf.nxs", {"data": np.float32}
    with GridWriter(path, grid, CELL, "t", types, group="pdf", direct=True) as writer:
        writer.write(0, data=np.ones(grid.array_shape, np.float32))
        writer.add_group(lambda entry: write_covariance(entry, VECTORS, COVARIANCE))
        writer.note({"kind": "delta"})
    opened = hklflow.open(path)
    assert opened.covariance([(1, 0, 0)])[0, 0] == 4
    with pytest.raises(
        HklflowError, match=r"lattice vectors are no voxels of .*0\.3, 0\.3, 0\.3 cell"
    ):
        opened.weighted_sum([(1, 0, 0)], [1])


def test_a_volume_without_covariance_is_refused(tmp_path: Path) -> None:
    types = {"data": np.float32}
    path = tmp_path / "pdf.nxs"
    with GridWriter(path, GRID, CELL, "t", types, group="pdf", direct=True) as writer:
        writer.write(0, data=np.ones(GRID.array_shape, np.float32))
        writer.note({"kind": "delta"})
    with pytest.raises(HklflowError, match=r"has no covariance of lattice vectors: .*`spectrum: t"):
        hklflow.open(path).covariance([(1, 0, 0)])


@pytest.mark.parametrize(
    "reason",
    [
        refill.rejected(*(Control(rms, 0.0, 0.1, 1.0, np.ones(9), 9) for rms in (9.0, 0.2))),
        refill.too_large(1e9),
        *hole_checks.too_little(0.9),
        *hole_checks.told({}, fill.UNJUDGED)["warnings"],
    ],
)
def test_the_reason_why_kriging_was_kept_is_said(tmp_path: Path, reason: str) -> None:
    path, types = tmp_path / "pdf.nxs", {"data": np.float32}
    with GridWriter(path, GRID, CELL, "t", types, group="pdf", direct=True) as writer:
        writer.write(0, data=np.ones(GRID.array_shape, np.float32))
        writer.note({"kind": "delta", "doubts": ["another doubt", reason]})
    with pytest.raises(HklflowError, match=f"by the spectrum; {re.escape(reason)}$"):
        hklflow.open(path).covariance([(1, 0, 0)])
