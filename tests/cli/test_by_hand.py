"""`hklflow model orient`: a crystal that is oriented by hand is the true one."""

import json
from pathlib import Path

import numpy as np
import pytest

from hklflow import nexus
from hklflow.formats.models import read_model
from hklflow.geometry import BEAM, lattice
from tests.truth import world_scans, worlds
from tests.truth.worlds_physics import busing_levy

from .conftest import Hklflow

SHORT = {"n_frames": 60, "mosaic": 0.1, "overlaps": False}


@pytest.fixture(scope="module")
def world() -> worlds.World:
    return worlds.world("plain", "triclinic", 6, **SHORT)


@pytest.fixture
def files(world: worlds.World, tmp_path: Path) -> dict[str, list[Path]]:
    return world_scans.written(world, tmp_path / "r0")


def two_peaks(world: worlds.World) -> list[list[str]]:
    """The strongest peak, and the strongest one that is far from its direction."""
    p = world.peaks
    g = p["hkl"] @ (world.sample.U @ busing_levy(world.sample.cell)).T
    g = g / np.linalg.norm(g, axis=1)[:, None]
    order = np.argsort(-p["intensity"])
    first = order[0]
    second = next(i for i in order if abs(g[i] @ g[first]) < 0.7)
    return [
        [f"{p[n][i]:.1f}" for n in ("slow", "fast", "frame")] + [f"{h:.0f}" for h in p["hkl"][i]]
        for i in (first, second)
    ]


def degrees_off(world: worlds.World, path: Path) -> float:
    (model,) = read_model(path)
    u, _ = model.crystal
    return float(np.degrees(lattice.rotation_angle(u, world.sample.U)))


def cell_of(world: worlds.World) -> list[str]:
    return [f"{x:.3f}" for x in world.sample.cell]


def test_two_peaks_orient_the_crystal_and_a_table_improves_it(
    world: worlds.World, files: dict[str, list[Path]], tmp_path: Path, hklflow: Hklflow
) -> None:
    first, second = two_peaks(world)
    given = ["model", "orient", str(files["scans"][0]), "--cell", *cell_of(world)]
    given += ["--peak", *first, "--peak", *second]
    hklflow(*given, "-o", str(tmp_path / "start.json"))
    assert degrees_off(world, tmp_path / "start.json") < 0.3
    table = str(files["peaks"][0])
    out = hklflow(*given, "--peaks", table, "-o", str(tmp_path / "fit.json")).out
    n = len(world.peaks["frame"])
    assert f"{n} of {n} peaks within 0.25 of integer hkl" in out
    assert degrees_off(world, tmp_path / "fit.json") < 0.02


def test_the_start_is_taken_by_the_refinement(
    world: worlds.World, files: dict[str, list[Path]], tmp_path: Path, hklflow: Hklflow
) -> None:
    from hklflow.stages import refine_parent

    first, second = two_peaks(world)
    start = tmp_path / "start.json"
    hklflow(
        *("model", "orient", str(files["scans"][0]), "--cell", *cell_of(world), "--peak", *first),
        *("--peak", *second, "--space-group", "P-1", "-o", str(start)),
    )
    refine_parent.main(
        inputs=refine_parent.Inputs(**files, start=start),
        outputs=refine_parent.Outputs(
            orientation=tmp_path / "parent.json", picture=tmp_path / "parent.png"
        ),
        params=refine_parent.Params(
            sample="s", scan="a", rotations=["r0"], space_group="P-1", grid_limits=(1, 1, 1)
        ),
    )
    assert degrees_off(world, tmp_path / "parent.json") < 0.02


def test_a_zone_axis_and_a_peak_orient_the_crystal(
    world: worlds.World, files: dict[str, list[Path]], tmp_path: Path, hklflow: Hklflow
) -> None:
    """The direction from the crystal to the source at frame 20, in units of the axes."""
    rotation = nexus.read_scan(files["scans"][0]).rotation
    towards = -rotation.goniometer.rotation(rotation.scan.angle(20.0)).T @ BEAM
    ub = world.sample.U @ busing_levy(world.sample.cell)
    zone = ub.T @ towards
    peak, _ = two_peaks(world)
    hklflow(
        *("model", "orient", str(files["scans"][0]), "--cell", *cell_of(world), "--peak", *peak),
        *("--zone", *(f"{x:.5f}" for x in zone), "20", "-o", str(tmp_path / "start.json")),
    )
    assert degrees_off(world, tmp_path / "start.json") < 0.5


def test_a_ub_is_taken_as_it_is(
    world: worlds.World, files: dict[str, list[Path]], tmp_path: Path, hklflow: Hklflow
) -> None:
    ub = world.sample.U @ busing_levy(world.sample.cell)
    hklflow(
        *("model", "orient", str(files["scans"][0]), "--ub", *(f"{x:.8f}" for x in ub.ravel())),
        *("-o", str(tmp_path / "start.json")),
    )
    stated = json.loads((tmp_path / "start.json").read_text())["UB"]
    assert np.array(stated) == pytest.approx(ub, abs=1e-7)


def test_hkl_that_contradict_the_cell_are_refused(
    world: worlds.World, files: dict[str, list[Path]], tmp_path: Path, hklflow: Hklflow
) -> None:
    first, second = two_peaks(world)
    second[3:] = first[3:]
    output = tmp_path / "start.json"
    done = hklflow(
        *("model", "orient", str(files["scans"][0]), "--cell", *cell_of(world), "--peak", *first),
        *("--peak", *second, "-o", str(output)),
    )
    assert done.code == 2
    assert "0.00° for these hkl and this cell" in done.err
    assert not output.exists()
