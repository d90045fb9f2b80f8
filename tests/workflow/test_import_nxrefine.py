"""An experiment of NXRefine: imported with one command, reduced, read where its users look."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hklflow.geometry.lattice import rotation_angle
from tests.truth import forks

from ..beamlines.nxrefine_layout import Layout, write
from .conftest import snakemake

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

# Rows from below, as with NXRefine's usual detector; the second rotation has frames of NaN.
LAYOUT = Layout(flip=True, nan_frames=(40, 41))


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The master file of the parent and the orientation of its child."""
    home = tmp_path_factory.mktemp("nxrefine")
    source = write(home / "EXP", LAYOUT)
    base = home / "reduced"
    for command in (("init", base), ("import", source, "--from", "nxrefine", "--directory", base)):
        words = [forks.python(), "-m", "hklflow.cli", *map(str, command)]
        run = subprocess.run(words, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    goals = ("results/hexa/300K/hexa_300K.nxs", "results/hexa/100K/orientation.json")
    run = snakemake(base, *goals, "--cores", "2", "--config", "delta_pdf=[transform]")
    assert run.returncode == 0, run.stdout + run.stderr
    return base


def test_volumes_are_where_nxrefines_users_look(reduced: Path) -> None:
    """Paths, axes in file order, angles and scaling factors of NXRefine's wrapper files."""
    from nexusformat.nexus import nxload

    stars = 2 * np.pi / (LAYOUT.cell[2] * np.ones(3))
    stars[1:] = 2 * np.pi / (LAYOUT.cell[0] * np.sqrt(0.75))
    root = nxload(str(reduced / "results/hexa/300K/hexa_300K.nxs"))
    for name in ("transform", "masked_transform", "symm_transform"):
        group = root["entry"][name]
        assert [axis.nxname for axis in group.nxaxes] == ["Ql", "Qk", "Qh"]
        assert group.nxsignal.nxname == "data"
        assert group.nxsignal.shape == (61, 61, 61)
        # Between the axes of the file: gamma*, beta*, alpha* of a hexagonal cell.
        np.testing.assert_allclose(group.attrs["angles"], (60, 90, 90), atol=1e-6)
        for axis, star in zip(group.nxaxes, stars, strict=True):
            np.testing.assert_allclose(axis.nxdata, np.linspace(-3, 3, 61), atol=1e-9)
            assert axis.attrs["scaling_factor"] == pytest.approx(star, rel=1e-3)
    for name in ("total_pdf", "pdf"):
        group = root["entry"][name]
        assert [axis.nxname for axis in group.nxaxes] == ["z", "y", "x"]
        np.testing.assert_allclose(group.attrs["angles"], (120, 90, 90), atol=1e-6)
        lengths = [float(axis.attrs["scaling_factor"]) for axis in group.nxaxes]
        np.testing.assert_allclose(lengths, LAYOUT.cell[2::-1], rtol=1e-3)
    assert "filled_data" in root["entry"]["symm_transform"]
    assert root["entry/sample/space_group"].nxvalue == "P 6/m m m"
    assert root["f1/data/data"].shape == (LAYOUT.n_frames, 150, 150)


def test_peaks_stand_at_integers(reduced: Path) -> None:
    """NXRefine's own volumes are shifted by half a voxel, 0.05."""
    from nexusformat.nexus import nxload

    root = nxload(str(reduced / "results/hexa/300K/hexa_300K.nxs"))
    data = root["entry/transform/data"].nxdata
    truth = LAYOUT.simulation("300K", "f1")
    hkl, intensity = truth.crystal.reflections(4.0)
    inside = np.all(np.abs(hkl) <= 2, axis=1)
    centres = []
    for row in hkl[inside][np.argsort(-intensity[inside])[:60]]:
        at = np.rint((row[::-1] + 3) / 0.1).astype(int)
        box = data[tuple(slice(i - 3, i + 4) for i in at)]
        if not np.isfinite(box).all():
            continue
        weight = box - np.median(box)
        offsets = np.indices(box.shape) - 3
        centres.append([np.sum(weight * x) / weight.sum() for x in offsets])
    assert len(centres) > 10
    assert np.abs(np.median(centres, axis=0)).max() < 0.1  # voxels


def test_the_diffuse_scattering_is_the_simulations(reduced: Path) -> None:
    from nexusformat.nexus import nxload

    root = nxload(str(reduced / "results/hexa/300K/hexa_300K.nxs"))
    group = root["entry/transform"]
    data, errors = group["data"].nxdata, group["data_errors"].nxdata
    truth = LAYOUT.simulation("300K", "f1")
    axis = np.linspace(-3, 3, 61)
    hkl = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")[::-1], axis=-1)
    away = np.linalg.norm((hkl - np.rint(hkl)) @ truth.ub.T, axis=-1) > 0.45
    use = away & np.isfinite(data) & (group["counts"].nxdata > 20)
    assert use.sum() > 2000
    q = np.linalg.norm(hkl[use] @ truth.ub.T, axis=-1)
    two_theta = 2 * np.arcsin(q / (2 * truth.scan.k))
    expected = truth.s_of_hkl(hkl[use]) + truth.background.level(two_theta, truth.scan.k)
    assert np.sum(data[use]) / np.sum(expected) == pytest.approx(1, abs=0.03)
    # The maximum of the cosine along h is at integers: its amplitude, by least squares.
    wave = np.cos(2 * np.pi * hkl[use][:, 0])
    weight = 1 / errors[use] ** 2
    rest = data[use] - (expected - 0.1 * wave)
    fitted = np.sum(weight * wave * rest) / np.sum(weight * wave**2)
    assert fitted == pytest.approx(0.1, abs=0.02)


def test_the_child_started_from_its_parent(reduced: Path) -> None:
    """Nothing was indexed: NXRefine's orientation is the start, and the crystal had drifted."""
    child = json.loads((reduced / "results/hexa/100K/orientation.json").read_text())
    truth = LAYOUT.simulation("100K", "f1")
    assert child["parent"] == "300K"
    assert np.abs(np.array(child["cell"]) / truth.cell - 1).max() < 1e-3
    assert np.degrees(rotation_angle(np.array(child["U"]), truth.crystal.u)) < 0.1
    parent = json.loads((reduced / "config/orientations/hexa_300K.json").read_text())
    true_ub = LAYOUT.simulation("300K", "f1").ub
    np.testing.assert_allclose(parent["UB"], true_ub, atol=1e-9)
