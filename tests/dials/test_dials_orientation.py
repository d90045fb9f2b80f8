"""DIALS as the engine of `refine_parent` and `refine`, against simulated truth."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow import geometry, nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.dials import orient
from hklflow.dials.programs import Dials
from hklflow.formats.dials_expt import write_expt
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.model import Model, from_orientation
from hklflow.geometry.model_compare import compare
from hklflow.simulation.frames import Simulation
from hklflow.stages import refine, refine_parent

from . import small_scans

pytestmark = pytest.mark.slow

GROUP = "P 6/m m m"


def run(module: Any, made: small_scans.Made, out: Path, inputs: Any = None, **params: Any) -> Any:
    """Run one of both stages; its product."""
    files = {"scans": made.scans, "peaks": made.peaks, "masks": made.masks}
    stage.run(
        module.main,
        inputs=module.Inputs(**{**files, **(inputs or {})}),
        outputs=module.Outputs(orientation=out, picture=out.with_suffix(".png")),
        params=module.Params(
            sample="s", scan="t", rotations=small_scans.NAMES[: len(made.scans)], **params
        ),
        threads=1,
    )
    return stage.read_json(out)


def parent(made: small_scans.Made, out: Path, inputs: Any = None, **params: Any) -> Any:
    settings = {"space_group": GROUP, "cell": (4.95, 4.95, 8.0, 90, 90, 120), **params}
    return run(refine_parent, made, out, inputs, **settings)


def degrees_off(data: Any, simulation: Simulation, number: int) -> float:
    """Misorientation of one rotation's crystal against truth, after symmetry."""
    model = from_orientation(data)[number]
    # Its own goniometer without the head: the simulated crystal itself is turned.
    bare = replace(model, rotation=orient.flat(model.rotation))
    true_gonio = bare.rotation.goniometer
    names = [name for name in true_gonio.names if name != "misorientation"]
    plain = geometry.Goniometer(
        tuple(names), true_gonio.axes[: len(names)], true_gonio.angles[: len(names)], 1
    )
    truth = Model(replace(model.rotation, goniometer=plain), simulation.ub)
    return compare(truth, model, symmetry.space_group(data["space_group"])).degrees


@pytest.fixture(scope="module")
def by_dials(
    dials: Dials, hexagonal: small_scans.Made, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    out = tmp_path_factory.mktemp("parent") / "orientation.json"
    return out, parent(hexagonal, out, engine="dials")


@pytest.mark.dials
def test_parent_indexed_and_refined_by_dials_is_the_truth(
    by_dials: Any, hexagonal: small_scans.Made, dials: Dials
) -> None:
    _, data = by_dials
    assert data["engine"]["program"] == dials.label
    assert data["engine"]["spots"].startswith("hklflow ")
    assert data["space_group"] == GROUP
    assert data["metrics"]["fraction indexed"] == 1.0
    cell, sigma = np.array(data["cell"]), np.array(data["cell_sigma"])
    assert np.all(np.abs(cell - small_scans.HEXAGONAL)[:3] < 5 * sigma[:3])
    assert np.all(sigma[:3] < 1e-3)
    for number, simulation in enumerate(hexagonal.simulations):
        # Each has its own turn of the head: 0.14 degrees between them.
        assert degrees_off(data, simulation, number) < 0.01
    assert np.isfinite(data["metrics"]["reduced chi2"])
    assert data["symmetry"]["free cell"] is not None


@pytest.mark.dials
def test_the_detector_that_was_moved_is_found_by_both(
    dials: Dials, hexagonal: small_scans.Made, tmp_path: Path
) -> None:
    """Three turns and two shifts are free in both engines: `fix=distance` of DIALS holds two."""
    moved = []
    shift, turn = np.array([2e-4, -1.5e-4, 0.0]), np.array([4e-3, -3e-3, 2e-3])
    for i, path in enumerate(hexagonal.scans):
        scan = nexus.read_scan(path)
        rotation = replace(scan.rotation, detector=scan.rotation.detector.moved(-shift, -turn))
        nexus.write_scan(tmp_path / f"{i}.nxs", replace(scan, rotation=rotation), "moved", None)
        moved.append(tmp_path / f"{i}.nxs")
    start = tmp_path / "start.expt"
    models = [Model(nexus.read_scan(moved[0]).rotation, hexagonal.simulations[0].ub, GROUP)]
    write_expt(start, models)
    found = {}
    for engine in ("builtin", "dials"):
        data = parent(
            hexagonal,
            tmp_path / f"{engine}.json",
            {"scans": moved, "start": start},
            engine=engine,
        )
        found[engine] = data
        rotation = geometry.from_dict(data["rotations"]["first"])
        truth = hexagonal.rotations[0].detector
        assert np.linalg.norm(rotation.detector.lab(90, 100) - truth.lab(90, 100)) < 1e-5
        assert np.abs(np.cross(rotation.detector.normal, truth.normal)).max() < 1e-3
        values = data["refined_parameters"]
        assert values["detector_x"]["value"] == pytest.approx(shift[0], abs=1e-5)
        assert values["detector_rotation_y"]["value"] == pytest.approx(turn[1], abs=1e-3)
    sigma = [np.array(d["cell_sigma"])[:3] for d in found.values()]
    cells = [np.array(d["cell"])[:3] for d in found.values()]
    assert np.all(np.abs(cells[0] - cells[1]) < 3 * np.hypot(*sigma))


@pytest.mark.dials
def test_child_is_refined_by_dials_from_its_parent(
    by_dials: Any, dials: Dials, tmp_path: Path
) -> None:
    cell = (4.91, 4.91, 8.13, 90.0, 90.0, 120.0)
    scans = small_scans.simulations(
        cell, turn=(0.4, -0.3, 0.5), misorientation=(-0.1, 0.05, 0.1), step_sign=-1
    )
    child = small_scans.make(tmp_path, scans)
    data = run(refine, child, tmp_path / "child.json", {"parent": by_dials[0]}, engine="dials")
    assert data["engine"]["program"] == dials.label
    assert np.allclose(data["cell"][:3], cell[:3], rtol=1e-4)
    for number, simulation in enumerate(scans):
        assert degrees_off(data, simulation, number) < 0.01
    # The detector is the parent's.
    own = geometry.from_dict(data["rotations"]["first"]).detector
    its = geometry.from_dict(by_dials[1]["rotations"]["first"]).detector
    assert np.allclose(own.origin, its.origin, rtol=0, atol=1e-10)


@pytest.mark.dials
def test_spots_of_dials_are_those_of_the_frames_and_not_of_the_mask(
    dials: Dials, tmp_path: Path
) -> None:
    made = small_scans.make(
        tmp_path, small_scans.simulations(small_scans.HEXAGONAL, 1, n_frames=40)
    )
    bits = np.zeros((180, 200), np.uint32)
    bits[:, 120:] = 256
    nexus.write_mask(made.masks[0], bits)
    truth = made.simulations[0].true_peaks()
    start = tmp_path / "start.expt"
    write_expt(start, [Model(made.rotations[0], made.simulations[0].ub, GROUP)])
    data = parent(made, tmp_path / "o.json", {"start": start}, spots="dials", refine_detector=False)
    assert data["engine"]["spots"] == dials.label
    assert data["engine"]["program"].startswith("hklflow ")
    strong = truth.clean & (truth.counts > 500) & (truth.fast < 117)
    assert 0.9 * strong.sum() < data["metrics"]["peaks found"] < 1.2 * np.sum(truth.fast < 121)
    assert data["metrics"]["rmsd in pixels"] < 0.15
    assert degrees_off(data, made.simulations[0], 0) < 0.03


@pytest.mark.dials
def test_spots_of_dials_need_masks(
    dials: Dials, hexagonal: small_scans.Made, tmp_path: Path
) -> None:
    with pytest.raises(HklflowError, match="2 rotations and 0 pixel masks"):
        parent(hexagonal, tmp_path / "o.json", {"masks": []}, spots="dials")


@pytest.mark.dials
def test_frames_of_an_integrating_detector_are_refused(
    dials: Dials, hexagonal: small_scans.Made, tmp_path: Path
) -> None:
    scans = []
    for i, path in enumerate(hexagonal.scans):
        scan = replace(nexus.read_scan(path), underload=-5.0)
        nexus.write_scan(tmp_path / f"{i}.nxs", scan, "photons and noise", None)
        scans.append(tmp_path / f"{i}.nxs")
    with pytest.raises(HklflowError, match="are from an integrating detector"):
        parent(hexagonal, tmp_path / "o.json", {"scans": scans}, spots="dials")


@pytest.mark.dials
def test_a_lattice_that_is_not_there_is_a_sentence(
    dials: Dials, hexagonal: small_scans.Made, tmp_path: Path
) -> None:
    with pytest.raises(HklflowError, match=r"dials\.index|the lattice that DIALS found"):
        parent(
            hexagonal,
            tmp_path / "o.json",
            engine="dials",
            space_group="P 4/m m m",
            cell=(3.1, 3.1, 3.7, 90, 90, 90),
        )


# ------------------------------------------------------------- start, without DIALS


def start_file(path: Path, rotation: geometry.Rotation, ub: Any, group: str) -> Path:
    write_expt(path, [Model(rotation, np.asarray(ub), group)])
    return path


def test_a_start_in_another_setting_and_laboratory(
    hexagonal: small_scans.Made, tmp_path: Path
) -> None:
    """Axes of a primitive cell of another choice, turned about the beam, zero angle elsewhere."""
    rotation, ub = hexagonal.rotations[0], hexagonal.simulations[0].ub
    quarter = geometry.rotation_matrix([0, 0, 1], 0.7)
    plate, gonio = rotation.detector, rotation.goniometer
    turned = replace(
        rotation,
        detector=replace(
            plate,
            origin=quarter @ plate.origin,
            slow=quarter @ plate.slow,
            fast=quarter @ plate.fast,
        ),
        goniometer=replace(gonio, axes=gonio.axes @ quarter.T),
        scan=replace(rotation.scan, start=rotation.scan.start + 0.3),
    )
    # R'(φ + 0.3) U' = quarter R(φ) U.
    inner = turned.goniometer.rotation(turned.scan.start)
    same = np.linalg.solve(inner, quarter @ gonio.rotation(rotation.scan.start) @ ub)
    axes = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]], float)
    start = start_file(tmp_path / "start.expt", turned, same @ np.linalg.inv(axes), "P 1")
    data = parent(hexagonal, tmp_path / "o.json", {"start": start})
    assert degrees_off(data, hexagonal.simulations[0], 0) < 0.01
    assert np.allclose(data["cell"], small_scans.HEXAGONAL, rtol=1e-4)


@pytest.mark.parametrize(
    ("group", "cell", "told"),
    [
        ("P 6/m m m", (5.4, 5.4, 8.1, 90, 90, 120), "which is not a lattice of P 6/m m m"),
        ("I m -3 m", None, "which is not a lattice of I m -3 m"),
    ],
)
def test_a_start_of_another_crystal_is_refused(
    hexagonal: small_scans.Made, tmp_path: Path, group: str, cell: Any, told: str
) -> None:
    start = start_file(
        tmp_path / "start.expt", hexagonal.rotations[0], hexagonal.simulations[0].ub, GROUP
    )
    with pytest.raises(HklflowError, match=told):
        parent(hexagonal, tmp_path / "o.json", {"start": start}, space_group=group, cell=cell)


def test_a_start_of_another_geometry_is_refused(
    hexagonal: small_scans.Made, tmp_path: Path
) -> None:
    rotation = hexagonal.rotations[0]
    about = geometry.Goniometer.single([0.0, 1.0, 0.0])
    start = start_file(
        tmp_path / "start.expt",
        replace(rotation, goniometer=about),
        hexagonal.simulations[0].ub,
        GROUP,
    )
    with pytest.raises(HklflowError, match="has another geometry"):
        parent(hexagonal, tmp_path / "o.json", {"start": start})


def test_peaks_on_displaced_modules_are_told_to_dials_on_the_plane(
    hexagonal: small_scans.Made,
) -> None:
    from hklflow.geometry.modules import Modules

    rotation = hexagonal.rotations[0]
    modules = Modules(
        np.array([[0, 180, 0, 100], [0, 180, 100, 200]]),
        np.array([[0.0, 0.0], [1.5, -0.7]]),
        np.array([0.0, 0.01]),
        1.0,
    )
    displaced = replace(rotation, detector=replace(rotation.detector, modules=modules))
    table = nexus.read_peaks(hexagonal.peaks[0])
    told = orient.on_plane(displaced, table)
    assert np.allclose(
        displaced.detector.lab(table.slow, table.fast),
        rotation.detector.lab(told.slow, told.fast),
        atol=1e-12,
    )
    assert np.abs(told.slow - table.slow).max() > 1


def test_what_lattices_are_told_apart_by(hexagonal: small_scans.Made) -> None:
    """The cell that a space group allows decides, not the one that fits best at random."""
    u, _ = lattice.decompose_ub(hexagonal.simulations[0].ub)
    from hklflow.stage import orientation

    cell = np.array([5.6, 5.6, 7.9, 90, 90, 90])
    swapped = u @ lattice.b_matrix(cell) @ np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], float)
    group = symmetry.space_group("P 4/m m m")
    own = symmetry.space_group("P 1")
    for known in (cell, None):
        found = orientation.reconciled(swapped, own, group, known, 0.03, "it")
        assert np.allclose(lattice.decompose_ub(found)[1], cell)
