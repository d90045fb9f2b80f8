"""From frames to the verdict: a parent, and a child below a transition."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation as Turn

from hklflow import geometry, nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.experiment import config
from hklflow.geometry import lattice, symmetry
from hklflow.images.scan import RotationScan
from hklflow.page.gates import table
from hklflow.peaks.search import find_peaks
from hklflow.simulation.frames import (
    Background,
    CrystalModel,
    DetectorModel,
    Distortion,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.stage import orientation
from hklflow.stages import accept, refine, refine_parent
from tests.parameters import params_of
from tests.truth.defaults import peak_params

CRYSTAL = CrystalModel(
    (5.6, 5.6, 5.75, 90, 90, 90),
    orientation=(0.4, -0.7, 0.3),
    scale=2.0,
    mosaic=0.007,
    expansion=(1.2e-5, 1.2e-5, 2e-5),
    distortions=(Distortion(200.0, (0.004, -0.004, 0.0), first_order=1.0),),
)
CHI = {"r1": 0.0, "r2": 40.0}
# What the goniometer's axes are off by at the second setting.
HEAD = {"r1": np.zeros(3), "r2": np.array([0.04, -0.05, 0.06])}
N = 120


def simulated(rotation: str, temperature: float, turn: tuple[float, float, float]) -> Simulation:
    off = Turn.from_rotvec(HEAD[rotation], degrees=True) * Turn.from_rotvec(turn, degrees=True)
    a, b, c = off.as_rotvec(degrees=True)
    return Simulation(
        DetectorModel((150, 150), 0.08, (75.3, 79.2), (400e-6, 400e-6), (0.01, -0.012), 0.004),
        GoniometerModel(
            ((0, 0, 1), (-1, 0, 0)), (np.radians(CHI[rotation]), 0.0), ("chi", "phi"), 1
        ),
        ScanModel(
            0.0, np.radians(1.2), N, 0.6, flux=6.0, temperature=temperature, seed=round(temperature)
        ),
        replace(CRYSTAL, turn=(a, b, c)),
        background=Background(air=1.0),
    )


def written(folder: Path, scan: str, temperature: float, turn: Any) -> refine.Inputs:
    """Scan files and peak tables of a scan's two rotations."""
    folder = folder / scan
    folder.mkdir()
    scans, tables = [], []
    for name in CHI:
        simulation = simulated(name, temperature, turn)
        plate, goniometer = simulation.detector, simulation.goniometer
        rotation = geometry.Rotation(
            geometry.Beam(0.6),
            geometry.Detector(plate.shape, plate.pixel_size, plate.origin, plate.slow, plate.fast),
            geometry.Goniometer(
                goniometer.names, np.array(goniometer.axes), np.array(goniometer.angles), 1
            ),
            geometry.Scan(0.0, np.radians(1.2), N),
        )
        ones = np.ones(N)
        header = RotationScan("none", 0, rotation, ones, ones, ones, "simulated", temperature)
        scans.append(folder / f"{name}.nxs")
        tables.append(folder / f"{name}_peaks.nxs")
        nexus.write_scan(scans[-1], header, name, None)
        peaks = find_peaks(
            simulation.frames(30), np.zeros(plate.shape, dtype=bool), peak_params(window=15, gain=1)
        )
        nexus.write_peaks(tables[-1], peaks)
    return refine.Inputs(parent=folder.parent / "300K/orientation.json", scans=scans, peaks=tables)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("accept")
    own = {"sample": "perov", "rotations": list(CHI)}
    inputs = written(folder, "300K", 300.0, (0.0, 0.0, 0.0))
    refine_parent.main(
        inputs=refine_parent.Inputs(scans=inputs.scans, peaks=inputs.peaks),
        outputs=refine_parent.Outputs(
            orientation=folder / "300K/parent.json", picture=folder / "300K/parent.png"
        ),
        params=refine_parent.Params(
            scan="300K",
            space_group="P 4/m m m",
            cell=(5.58, 5.58, 5.77, 90, 90, 90),
            grid_limits=(3, 3, 3),
            **own,
        ),
    )
    drifts = {"300K": (0.0, 0.0, 0.0), "150K": (-0.1, 0.2, 0.2)}
    for scan, turn in drifts.items():
        if scan != "300K":
            inputs = written(folder, scan, float(scan[:-1]), turn)
        refine.main(
            inputs=inputs.model_copy(update={"parent": folder / "300K/parent.json"}),
            outputs=refine.Outputs(
                orientation=folder / scan / "orientation.json", picture=folder / scan / "o.png"
            ),
            params=refine.Params(scan=scan, **own),
        )
    return folder


def verdict(folder: Path, scan: str, **params: Any) -> dict[str, Any]:
    accepted = folder / scan / "accepted.json"
    accepted.unlink(missing_ok=True)
    accept.main(
        inputs=accept.Inputs(
            orientation=folder / scan / "orientation.json", parent=folder / "300K/parent.json"
        ),
        outputs=accept.Outputs(accepted=accepted),
        params=accept.Params(**params),
    )
    result: dict[str, Any] = json.loads(accepted.read_text())
    return result


def test_the_parent_is_accepted_against_itself(experiment: Path) -> None:
    record = verdict(experiment, "300K")
    assert record["accepted"] is True
    assert record["sentences"] == []
    data = stage.read_json(experiment / "300K/orientation.json")
    assert data["temperature"] == 300
    assert not [x for x in data["warnings"] if "a parent, also of the scans" in x]


def test_the_scan_below_the_transition_stops_with_a_sentence(experiment: Path) -> None:
    with pytest.raises(HklflowError, match=r"perov 150K at 150 K: the tetragonal relation a = b"):
        verdict(experiment, "150K")
    assert not (experiment / "150K/accepted.json").exists()
    data = stage.read_json(experiment / "150K/orientation.json")
    assert any("a parent, also of the scans below" in x for x in data["warnings"])
    assert data["parent"] == "300K"
    free = data["symmetry"]["free cell"]
    truth = simulated("r1", 150.0, (0.0, 0.0, 0.0)).cell
    assert np.all(np.abs(np.array(free["cell"]) - truth) < 5 * np.array(free["sigma"]))
    assert [x["space_group"] for x in data["symmetry"]["subgroups"]] == ["P m m m"]


def test_a_warning_lets_it_pass_unaccepted(experiment: Path) -> None:
    record = verdict(experiment, "150K", on_failure="warn")
    assert record["accepted"] is False
    assert len(record["sentences"]) == 2
    assert record["limits"]["min_strain"] == 2e-4
    assert record["temperature"] == 150


@pytest.mark.parametrize("scan", ["300K", "150K"])
def test_a_parameter_of_the_parent_decides_about_its_child(
    experiment: Path, tmp_path: Path, scan: str
) -> None:
    """The entry of the parent changes the result of the child; the child's own entry wins."""
    (tmp_path / "config").mkdir()
    for name in ("300.nxs", "150.nxs"):
        (tmp_path / name).touch()
    (tmp_path / "config/samples.tsv").write_text("sample\tspace_group\nperov\tP 4/m m m\n")
    rows = "sample\tscan\ttemperature\tparent\trotation\traw\n"
    rows += "".join(f"perov\t{t}K\t{t}\t300K\tr1\t{t}.nxs\n" for t in (300, 150))
    (tmp_path / "config/scans.tsv").write_text(rows)

    def limit_and_verdict(*changes: tuple[str, float]) -> tuple[float, bool]:
        per_scan = {f"perov/{name}": {"accept": {"min_strain": v}} for name, v in changes}
        data = {"accept": {"on_failure": "warn"}, "per_scan": per_scan}
        params = params_of(config.load(data, tmp_path), "accept", "perov", scan)
        record = verdict(experiment, scan, **params.model_dump())
        return record["limits"]["min_strain"], record["accepted"]

    is_parent = scan == "300K"
    assert limit_and_verdict() == (2e-4, is_parent)
    assert limit_and_verdict(("300K", 0.02)) == (0.02, True)
    of_child = limit_and_verdict(("300K", 0.02), ("150K", 3e-4))
    assert of_child == ((0.02, True) if is_parent else (3e-4, False))


def test_limits_are_the_configurations(experiment: Path) -> None:
    assert verdict(experiment, "150K", min_strain=0.02)["accepted"] is True


def test_children_start_from_the_parents_heads(experiment: Path) -> None:
    parent = stage.read_json(experiment / "300K/parent.json")
    again = stage.read_json(experiment / "300K/orientation.json")
    for data in (parent, again):
        goniometer = data["rotations"]["r2"]["goniometer"]
        assert goniometer["names"] == ["chi", "phi", "misorientation"]
        vector = np.array(goniometer["axes"][2]) * goniometer["angles_deg"][2]
        np.testing.assert_allclose(vector, HEAD["r2"], atol=0.02)
    # What a scan refines is added to what it inherited: the same peaks ask for nothing more.
    added = [again["refined_parameters"][f"misorientation_1_{x}"]["value"] for x in "xyz"]
    assert np.abs(added).max() < np.radians(0.002)


def test_the_scan_of_the_parent_has_its_errors(experiment: Path) -> None:
    """The same peaks with the detector inherited instead of refined know no more."""
    parent = stage.read_json(experiment / "300K/parent.json")
    again = stage.read_json(experiment / "300K/orientation.json")
    for key in ("cell_sigma", "orientation_sigma_deg"):
        np.testing.assert_allclose(again[key], parent[key], rtol=0.1)
    assert np.all(np.array(parent["inherited_cell_covariance"]) == 0)


def test_a_child_keeps_the_attenuation_of_its_own_wavelength(experiment: Path) -> None:
    """And takes the place of the parent's detector: the calibration is the same."""
    folder, sensor = experiment / "150K", {"sensor_thickness": 1e-3, "sensor_attenuation": 777.0}
    parent = stage.read_orientation(experiment / "300K/parent.json")
    observed = orientation.read(["r1"], [folder / "r1.nxs"], [folder / "r1_peaks.nxs"])
    own = observed.scans[0]
    detector = replace(own.rotation.detector, **sensor)
    scan = replace(own, rotation=replace(own.rotation, detector=detector))
    rotations, notes = orientation.inherited(replace(observed, scans=[scan]), parent)
    assert notes == []
    found = geometry.detector_to_dict(rotations[0].detector)
    expected = geometry.detector_to_dict(parent.rotation("r1").detector)
    assert found == expected | {
        "sensor_thickness_m": 1e-3,
        "sensor_attenuation_per_m": 777.0,
    }


@pytest.mark.parametrize("names", [{"r2": "r2"}, {"r2": "r1", "r1": "r2"}, {"r2": "only"}])
def test_heads_belong_to_settings_not_to_names(experiment: Path, names: dict[str, str]) -> None:
    folder = experiment / "150K"
    parent = stage.read_orientation(experiment / "300K/parent.json")
    observed = orientation.read(
        list(names.values()),
        [folder / f"{n}.nxs" for n in names],
        [folder / f"{n}_peaks.nxs" for n in names],
    )
    rotations, notes = orientation.inherited(observed, parent)
    assert notes == []
    for own, rotation in zip(names, rotations, strict=True):
        refined = parent.rotation(own).goniometer
        assert rotation.goniometer.names == refined.names
        np.testing.assert_allclose(rotation.goniometer.angles, refined.angles)
    assert rotations[0].goniometer.names[-1] == "misorientation"


def test_a_broken_relation_is_refined_without_constraints(experiment: Path) -> None:
    data = stage.read_json(experiment / "150K/orientation.json")
    truth = simulated("r1", 150.0, (-0.1, 0.2, 0.2))
    cell, sigma = np.array(data["cell"]), np.array(data["cell_sigma"])
    assert truth.cell[1] - truth.cell[0] < -0.04
    assert np.all(np.abs(cell - truth.cell) < 4 * sigma)
    assert np.all(sigma > 0)
    np.testing.assert_allclose(sigma**2, np.diag(data["cell_covariance"]), rtol=1e-9)
    assert data["cell_constraints"] is None
    assert data["space_group"] == "P 4/m m m"
    assert "the cell was refined without constraints: a = b is broken" in data["warnings"]
    # UB is U B of the cell told, and the crystal's own.
    u, own = lattice.decompose_ub(data["UB"])
    np.testing.assert_allclose(own, cell, rtol=1e-9)
    np.testing.assert_allclose(u, data["U"], atol=1e-9)
    true_u = lattice.decompose_ub(truth.ub)[0]
    turns = symmetry.space_group("P 4/m m m").proper_laue_operations
    # a and b are told apart: only the four turns by 180 degrees are left of the eight.
    exchanging = [bool(w[0, 1]) for w in turns]
    errors = [
        np.degrees(
            lattice.rotation_angle(lattice.decompose_ub(np.array(data["UB"]) @ w)[0], true_u)
        )
        for w in turns
    ]
    assert min(errors) < 0.01
    assert not exchanging[int(np.argmin(errors))]
    # The gates' figures are those of the constrained cell.
    constrained = data["symmetry"]["cell"]
    assert constrained[0] == constrained[1]


def test_the_figures_of_a_free_cell_are_those_of_its_own_geometry(experiment: Path) -> None:
    folder = experiment / "150K"
    data = stage.read_json(folder / "orientation.json")
    observed = orientation.read(
        list(CHI), [folder / f"{n}.nxs" for n in CHI], [folder / f"{n}_peaks.nxs" for n in CHI]
    )
    off = []
    for name, peaks in zip(CHI, observed.peaks, strict=True):
        rotation = geometry.from_dict(data["rotations"][name])
        hkl = rotation.hkl(np.array(data["UB"]), peaks.frame, peaks.slow, peaks.fast)
        off.append(np.abs(hkl - np.rint(hkl)).max(axis=1))
    tolerance = refine.Settings.model_fields["hkl_tolerance"].default
    indexed = np.concatenate(off) < tolerance
    assert data["metrics"]["fraction indexed"] == pytest.approx(indexed.mean(), abs=0.003)
    # What is said to be added is added to what the parent left.
    vectors = []
    for path in (experiment / "300K/parent.json", folder / "orientation.json"):
        head = stage.read_json(path)["rotations"]["r2"]["goniometer"]
        assert head["names"][2:] == ["misorientation"]
        vectors.append(np.radians(head["angles_deg"][2]) * np.array(head["axes"][2]))
    added = [data["refined_parameters"][f"misorientation_1_{x}"]["value"] for x in "xyz"]
    np.testing.assert_allclose(added, vectors[1] - vectors[0], atol=1e-6)


def test_the_parents_constraints_can_be_kept_and_hold_where_nothing_is_broken(
    experiment: Path, tmp_path: Path
) -> None:
    folder = experiment / "150K"
    outputs = refine.Outputs(orientation=tmp_path / "o.json", picture=tmp_path / "o.png")
    refine.main(
        inputs=refine.Inputs(
            parent=experiment / "300K/parent.json",
            scans=[folder / f"{n}.nxs" for n in CHI],
            peaks=[folder / f"{n}_peaks.nxs" for n in CHI],
        ),
        outputs=outputs,
        params=refine.Params(
            sample="perov", scan="150K", rotations=list(CHI), constraints="parent"
        ),
    )
    for path in (outputs.orientation, experiment / "300K/orientation.json"):
        data = stage.read_json(path)
        assert data["cell"][0] == data["cell"][1]
        assert data["cell"][3:] == [90, 90, 90]
        assert data["cell_constraints"] == "P 4/m m m"
        assert not [x for x in data["warnings"] if "without constraints" in x]
    kept = stage.read_json(outputs.orientation)
    assert any("a parent, also of the scans below" in x for x in kept["warnings"])


@pytest.mark.parametrize(
    ("absent", "sentence"),
    [
        ("misfit", "old.json lacks figures that the gates need; refine that scan again"),
        ("metrics", "old.json has no 'metrics': .*; refine that scan again"),
    ],
)
def test_figures_must_be_there(
    experiment: Path, tmp_path: Path, absent: str, sentence: str
) -> None:
    old, data = tmp_path / "old.json", stage.read_json(experiment / "300K/parent.json")
    (data if absent in data else data["symmetry"]).pop(absent)
    stage.write_json(old, data)
    with pytest.raises(HklflowError, match=sentence):
        accept.main(
            inputs=accept.Inputs(orientation=old, parent=experiment / "300K/parent.json"),
            outputs=accept.Outputs(accepted=tmp_path / "accepted.json"),
            params=accept.Params(),
        )


def test_along_another_axis_the_value_is_named_and_the_size_has_no_limit(experiment: Path) -> None:
    """The cell of 150K differs from its parent by more than expansion over 0 K."""
    along = stage.Along(name="field", symbol="B", unit="T", values={"300K": 0.0, "150K": 7.0})
    strict = {
        "on_failure": "warn",
        "max_expansion": 0,
        "min_jump": 0,
        "min_z": 1e-6,
        "min_strain": 0,
    }
    of_temperature = verdict(experiment, "150K", **strict)
    record = verdict(experiment, "150K", along=along, **strict)
    assert any("more than thermal expansion" in text for text in of_temperature["sentences"])
    assert not any("expansion" in text for text in record["sentences"])
    assert (record["value"], record["parent_value"]) == (7.0, 0.0)
    assert record["axis"] == {"name": "field", "symbol": "B", "unit": "T"}
    assert any("150K at 7 T: " in text for text in record["sentences"])
    assert "also of the scans above 7 T" in record["sentences"][-1]
    shown = [gate for gate in table(record) if gate.name == "Change of the cell"]
    assert [gate.figure for gate in shown] == ["not tested"]
    assert shown[0].limit == "not along field"
