"""Stage `temperature_series` on peak tables of a crystal whose every change is known."""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hklflow
from hklflow import geometry, nexus, plots, stage
from hklflow.base.errors import HklflowError
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice, prediction
from hklflow.images.frame_scale import FrameScale, Transmission
from hklflow.nexus.entry import open_entry
from hklflow.peaks.table import PeakTable
from hklflow.stages import temperature_series
from tests import taken
from tests.truth.orientations import write_orientation

ROTATIONS = {"r1": 0.0, "r2": 40.0}
SIGMA = np.array([5e-5, 5e-5, 8e-5, 0.0, 0.0, 0.0])
WARNINGS = {"s150": ["tetra s150 at 150 K: gate"], "s100": ["too cold"]}
COVARIANCE = np.diag(SIGMA**2)
COVARIANCE[0, 1] = COVARIANCE[1, 0] = SIGMA[0] ** 2  # a = b
T_C = 190.0


@dataclass(frozen=True)
class Truth:
    """One scan as it is."""

    temperature: float | None
    parent: str
    scale: float = 1.0
    b: float = 0.5
    mosaic: float = 0.006

    @property
    def cell(self) -> np.ndarray:
        """Tetragonal cell that contracts; below `T_C` c grows with the root of T_C - T."""
        t = 130.0 if self.temperature is None else self.temperature
        shrink = 1 + 1.2e-5 * (t - 300) + 1e-8 * (t - 300) ** 2
        onset = 4e-3 * np.sqrt(max(0.0, 1 - t / T_C))
        return np.array([5.1 * shrink, 5.1 * shrink, 7.3 * shrink * (1 + onset), 90, 90, 90])


SCANS = {
    "s200": Truth(200, "s300", 1.3, 0.35, 0.0065),
    "s300": Truth(300, "s300"),
    "s150": Truth(150, "s300", 0.7, 0.3, 0.008),
    "lost": Truth(None, "s300", 1.1),
    "s250": Truth(250, "s300", 0.9, 0.42),
    "s80": Truth(80, "s80", 2.0, 0.2, 0.009),
    "s100": Truth(100, "s300", 1.0, 0.25),
    "s60": Truth(60, "s80", 1.0, 0.15),
}
ORDER = ["s300", "s250", "s200", "s150", "s100", "s80", "s60", "lost"]


def rotation(chi: float) -> Rotation:
    return Rotation(
        Beam(0.6, 0.99),
        Detector(
            (400, 400),
            (5e-4, 5e-4),
            np.array([0.1, 0.1, 0.09]),
            np.array([0.0, -1.0, 0.0]),
            np.array([-1.0, 0.0, 0.0]),
        ),
        Goniometer(("chi", "phi"), np.array([[0, 0, 1.0], [-1, 0, 0]]), np.radians([chi, 0.0]), 1),
        Scan(0.0, np.radians(0.5), 360),
    )


def ub_of(truth: Truth, turn: float) -> np.ndarray:
    """Orientation that drifts from scan to scan."""
    u = geometry.rotation_matrix([0.3, 0.5, 0.2], 0.8 + turn)
    return u @ lattice.b_matrix(truth.cell)


def peaks_of(where: Rotation, truth: Truth, ub: np.ndarray, rng: np.random.Generator) -> PeakTable:
    """Every reflection as the scan shows it, with the scatter of its counts."""
    hkl = lattice.indices_within(truth.cell, 6.5)
    found = prediction.predict(where, ub, hkl)
    keep = (found.zeta > 0.1) & (found.frame > 3) & (found.frame < 357)
    frame, slow, fast, zeta = (getattr(found, n)[keep] for n in ("frame", "slow", "fast", "zeta"))
    hkl = hkl[found.index[keep]]
    s = 1 / (2 * lattice.d_spacing(truth.cell, hkl))
    strength = 800 * np.exp(2 * np.sin(hkl @ [3.0, 5.0, 7.0]))  # a structure factor
    expected = truth.scale * strength * np.exp(-2 * truth.b * s**2)
    # sin 2θ with sin θ = λ s: a crossing takes a time ∝ 1 / (ζ sin 2θ)
    expected /= zeta * np.sin(2 * np.arcsin(where.beam.wavelength * s))
    expected *= frame_norm()[frame.astype(int)]
    counts = rng.poisson(expected).astype(float)
    seen = counts > 60
    n = int(seen.sum())
    width = truth.mosaic / (zeta * where.scan.step) * (1 + 0.05 * rng.standard_normal(len(zeta)))
    columns = dict.fromkeys(("width_slow", "width_fast", "background", "chi2"), np.ones(n))
    columns |= {f"var_{name}": np.full(n, 1e-4) for name in ("frame", "slow", "fast")}
    whole = {name: np.ones(n, np.int64) for name in ("n_pixels", "n_frames")}
    return PeakTable(
        frame=frame[seen],
        slow=slow[seen],
        fast=fast[seen],
        width_frame=width[seen],
        intensity=counts[seen],
        var_intensity=counts[seen],
        maximum=counts[seen],
        significance=np.sqrt(counts[seen]),
        flags=np.zeros(n, np.int64),
        counts={},
        **columns,
        **whole,
    )


def frame_norm() -> np.ndarray:
    return 1.5 + 0.5 * np.sin(np.arange(360) / 30)


def write_scale(path: Path) -> Path:
    """The frame's norm in three parts."""
    norm = frame_norm()
    monitor, attenuation = np.full(360, 4.0), np.full(360, 0.25)
    flat = np.zeros(360)
    transmission = Transmission(norm / 2, flat, norm / 2, flat.astype(np.uint8), 1.0)
    scale = FrameScale(monitor, attenuation, flat, transmission, 2.0, 1.0, "background")
    nexus.write_scale(path, scale, flat)
    return path


HOT_AND_COLD = (("hot", 300), ("cold", 100))


def write_sample(folder: Path, scans: dict[str, Truth]) -> temperature_series.Inputs:
    """Orientations, peak tables and scales of all scans."""
    rng = np.random.default_rng(12)
    orientations, peaks, scales = [], [], []
    for i, (name, truth) in enumerate(scans.items()):
        ub = ub_of(truth, 0.005 * i)
        (folder / name).mkdir(parents=True)
        for rotation_name, chi in ROTATIONS.items():
            path = folder / name / f"{rotation_name}_peaks.nxs"
            nexus.write_peaks(path, peaks_of(rotation(chi), truth, ub, rng))
            peaks.append(path)
            scales.append(write_scale(folder / name / f"{rotation_name}_scale.nxs"))
        noise = np.array([*np.repeat(rng.standard_normal(2), [2, 1]), 0, 0, 0])
        path = write_orientation(
            folder / name / "orientation.json",
            {n: rotation(chi) for n, chi in ROTATIONS.items()},
            ub,
            "P 4/m m m",
            sample="tetra",
            scan=name,
            parent=truth.parent,
            temperature=truth.temperature,
            cell=truth.cell + noise * SIGMA,
            cell_sigma=SIGMA,
            cell_covariance=COVARIANCE,
            # Within a wider tolerance more are, but of that no verdict is made.
            metrics={"fraction indexed": 0.97, "peaks": 400},
            figures={"fraction unindexed": 0.1},
            warnings=WARNINGS.get(name, []),
        )
        orientations.append(path)
    return temperature_series.Inputs(orientations=orientations, peaks=peaks, scales=scales)


def run(
    inputs: temperature_series.Inputs, folder: Path, along: stage.Along | None = None
) -> temperature_series.Outputs:
    folder.mkdir(exist_ok=True)
    outputs = temperature_series.Outputs(
        table=folder / "series.tsv",
        series=folder / "series.nxs",
        picture=folder / "series.png",
        findings=folder / "findings.json",
    )
    stage.run(
        temperature_series.main,
        inputs=inputs,
        outputs=outputs,
        params=temperature_series.Params()
        if along is None
        else temperature_series.Params(along=along),
        threads=1,
    )
    return outputs


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> temperature_series.Inputs:
    return write_sample(tmp_path_factory.mktemp("sample"), SCANS)


@pytest.fixture(scope="module")
def outputs(
    inputs: temperature_series.Inputs, tmp_path_factory: pytest.TempPathFactory
) -> temperature_series.Outputs:
    return run(inputs, tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def table(outputs: temperature_series.Outputs) -> dict[str, dict[str, str]]:
    with outputs.table.open(newline="") as file:
        return {row["scan"]: row for row in csv.DictReader(file, delimiter="\t")}


@pytest.fixture(scope="module")
def findings(outputs: temperature_series.Outputs) -> dict[str, Any]:
    return stage.read_json(outputs.findings)


# ------------------------------------------------------------------------ the table


def test_scans_are_sorted_and_name_their_reference(table: dict[str, dict[str, str]]) -> None:
    assert list(table) == ORDER
    assert table["lost"]["temperature"] == ""
    for name, truth in SCANS.items():
        assert table[name]["parent"] == table[name]["reference"] == truth.parent


def test_cell_and_volume_are_those_of_the_refinement(table: dict[str, dict[str, str]]) -> None:
    for name, truth in SCANS.items():
        row = table[name]
        a, c = truth.cell[0], truth.cell[2]
        for key, value, sigma in (
            ("a", a, SIGMA[0]),
            ("c", c, SIGMA[2]),
            # V = a² c with a = b: 2 a c σ(a) and a² σ(c) in quadrature
            ("volume", a * a * c, np.hypot(2 * a * c * SIGMA[0], a * a * SIGMA[2])),
        ):
            assert float(row[f"{key}_sigma"]) == pytest.approx(sigma, rel=1e-3)
            assert abs(float(row[key]) - value) < 4 * sigma
        assert float(row["gamma_sigma"]) == 0


def test_mosaic_scale_and_debye_waller_factor_are_the_crystals(
    table: dict[str, dict[str, str]],
) -> None:
    for name, truth in SCANS.items():
        row = {key: float(table[name][key]) for key in table[name] if key not in _TEXT}
        parent = SCANS[truth.parent]
        expected = {"mosaic": np.degrees(truth.mosaic)}
        if name != truth.parent:
            expected |= {"scale": truth.scale / parent.scale, "debye_waller": truth.b - parent.b}
            assert row["common_reflections"] > 100
            assert row["scale_sigma"] < 0.01 * row["scale"]
            assert 0 < row["debye_waller_sigma"] < 0.02
        else:
            assert (row["scale"], row["debye_waller"]) == (1, 0)
            assert (row["scale_sigma"], row["debye_waller_sigma"]) == (0, 0)
        for key, value in expected.items():
            assert abs(row[key] - value) < 4 * row[f"{key}_sigma"], (name, key)
        assert row["mosaic_sigma"] < 0.01 * row["mosaic"]
        assert row["indexed"] == pytest.approx(0.9)
        # √(p q / n), and a little for the half counts of the prior
        assert row["indexed_sigma"] == pytest.approx(0.015, rel=0.02)


_TEXT = ("scan", "parent", "reference", "space_group", "temperature")


# --------------------------------------------------------------------- the findings


def test_the_onset_is_named_between_its_two_temperatures(findings: dict[str, Any]) -> None:
    (found,) = findings["transitions"]
    assert (found["parent"], found["warmer"], found["colder"]) == ("s300", 200, 150)
    # Normal contraction by 50 K hides the onset in the volume, a is without one.
    assert set(found["departures"]) == {"c"}
    onset = 4e-3 * np.sqrt(1 - 150 / T_C)
    # From the nearer end of what normal contraction allows: between the onset and that
    # plus the contraction of 50 K.
    strain = found["departures"]["c"]["strain"]
    assert onset - 7e-4 < strain < onset + 1e-5
    first = findings["sentences"][0]
    assert "between 200 K and 150 K" in first
    assert "c by +" in first


def test_sentences_of_the_scans_and_of_what_is_missing(findings: dict[str, Any]) -> None:
    told = findings["sentences"]
    assert "lost has no temperature: it is in the table, but not in the plots" in told
    assert "tetra s150 at 150 K: gate" in told
    assert "s100: too cold" in told
    assert len(told) == 4


# ------------------------------------------------------------------ file and picture


def test_nexusformat_and_silx_open_the_series(outputs: temperature_series.Outputs) -> None:
    import silx.io
    from nexusformat.nexus import nxload
    from silx.io import nxdata

    temperatures = sorted(t.temperature for t in SCANS.values() if t.temperature is not None)
    root = nxload(str(outputs.series), "r")
    cell = root.plottable_data
    assert cell.nxname == "cell"
    assert cell.nxsignal.nxname == "a"
    assert [axis.nxname for axis in cell.nxaxes] == ["temperature"]
    np.testing.assert_array_equal(cell.nxaxes[0].nxdata, temperatures)
    c = {t.temperature: t.cell[2] for t in SCANS.values()}
    np.testing.assert_allclose(cell["c"].nxdata, [c[t] for t in temperatures], atol=4 * SIGMA[2])
    np.testing.assert_allclose(cell.nxerrors.nxdata, SIGMA[0])
    with silx.io.open(str(outputs.series)) as file:
        default = nxdata.get_default(file)
        assert default is not None
        assert default.is_valid
        assert default.auxiliary_signals_dataset_names == ["b", "c"]
        for name in ("a", "gamma", "volume", "mosaic", "indexed", "scale", "debye_waller"):
            data = nxdata.NXdata(file[f"entry/{name}"])
            assert data.is_valid
            assert data.signal.shape == data.errors.shape == (7,)
            assert data.axes_dataset_names == ["temperature"]
        scans = file["entry/scans"]
        assert len(scans["scan"]) == 8
        assert np.isnan(scans["temperature"][()]).sum() == 1


def test_picture_has_panels_bands_and_a_colour_for_each_parent() -> None:
    values = {"a": 5.0, "a_sigma": 0.1, "b": 6.0, "b_sigma": 0.1}
    rows: list[dict[str, Any]] = [
        {"scan": scan, "parent": parent, "temperature": temperature, **values}
        for scan, parent, temperature in (
            ("s300", "s300", 300.0),
            ("s200", "s300", 200.0),
            ("s100", "s100", 100.0),
            ("lost", "s300", None),
        )
    ]
    labels = {"a": "a (Å)", "b": "b (Å)"}
    figure = plots.temperature_series(rows, labels, [(200.0, 100.0)], "x")
    panels = [axes for axes in figure.axes if axes.get_ylabel()]
    assert [axes.get_ylabel() for axes in panels] == ["a (Å)", "b (Å)"]
    for axes in panels:
        (band,) = axes.patches
        assert [*band.get_extents().transformed(axes.transData.inverted()).intervalx] == (
            pytest.approx([100, 200])
        )
    points = [line for line in panels[0].lines if line.get_marker() == "o"]
    assert len(points) == 2
    assert len({line.get_color() for line in points}) == 2
    assert sum(len(line.get_xdata()) for line in points) == 3


def test_a_series_without_any_temperature_is_a_table(tmp_path: Path) -> None:
    scans = {"x": Truth(None, "x"), "y": Truth(None, "x")}
    found = run(write_sample(tmp_path / "sample", scans), tmp_path)
    assert len(found.table.read_text().splitlines()) == 3
    assert len(stage.read_json(found.findings)["sentences"]) == 2
    assert found.picture.stat().st_size > 0


# ------------------------------------------------------------------------ bad input


def test_an_angle_that_leaves_its_fixed_value_is_a_departure(tmp_path: Path) -> None:
    scans = {f"s{t}": Truth(t, "s300") for t in (300, 280, 260, 240)}
    inputs = write_sample(tmp_path / "sample", scans)
    path = inputs.orientations[-1]
    data = json.loads(path.read_text())
    # Refined without constraints: beta is off by 0.1 degrees, the others have their errors.
    data["cell"][4] = 90.1
    data["cell_sigma"][3:] = [0.002, 0.002, 0.002]
    stage.write_json(path, data)
    found = stage.read_json(run(inputs, tmp_path).findings)["transitions"]
    assert [(t["warmer"], t["colder"]) for t in found] == [(260, 240)]
    assert list(found[0]["departures"]) == ["beta"]
    assert found[0]["departures"]["beta"]["strain"] == pytest.approx(np.radians(0.1))


def test_absorption_in_the_scale_of_only_some_scans_is_a_finding(tmp_path: Path) -> None:
    """Its mean transmission is in the scale to the parent, where it looks like the crystal's."""
    inputs = write_sample(tmp_path / "sample", {name: SCANS[name] for name in ("s300", "s250")})
    for path in inputs.scales[2:]:
        plain = nexus.read_scale(path)
        shaped = replace(plain, absorption=np.full(360, 0.5))
        nexus.write_scale(path, shaped, np.zeros(360))
    found = run(inputs, tmp_path / "series")
    sentences = stage.read_json(found.findings)["sentences"]
    expected = (
        "only s250 is corrected for absorption by shape: the change of the scale to the parent"
    )
    assert [s for s in sentences if s.startswith(expected)]


def test_the_shared_error_of_a_detector_hides_no_departure(tmp_path: Path) -> None:
    """It is common to the scans of a parent: their differences do not contain it."""
    scans = {f"s{t}": Truth(t, "s300") for t in (300, 280, 260, 240)}
    inputs = write_sample(tmp_path / "sample", scans)
    shared = np.diag([1.0, 1.0, 1.0, 0, 0, 0]) * 0.05**2
    for path in inputs.orientations:
        data = json.loads(path.read_text())
        data["inherited_cell_covariance"] = shared
        data["cell_covariance"] = np.array(data["cell_covariance"]) + shared
        data["cell_sigma"] = np.sqrt(np.array(data["cell_sigma"]) ** 2 + np.diag(shared))
        data["cell"][2] += 0.02 * (path == inputs.orientations[-1])
        stage.write_json(path, data)
    found = stage.read_json(run(inputs, tmp_path).findings)["transitions"]
    assert [(t["warmer"], t["colder"]) for t in found] == [(260, 240)]
    assert "c" in found[0]["departures"]


@pytest.mark.slow
def test_rotations_at_other_settings_are_not_compared(tmp_path: Path) -> None:
    inputs = write_sample(tmp_path / "sample", {n: SCANS[n] for n in ("s300", "s250")})
    path = inputs.orientations[1]
    rng = np.random.default_rng(3)
    counts = []
    for chi in (40.0, 45.0):
        data = json.loads(path.read_text())
        data["rotations"]["r2"] = geometry.to_dict(rotation(chi))
        stage.write_json(path, data)
        # Peaks as that setting shows them: nearly all of the same reflections.
        seen = peaks_of(rotation(chi), SCANS["s250"], np.array(data["UB"]), rng)
        nexus.write_peaks(inputs.peaks[3], seen)
        with run(inputs, tmp_path / f"{chi:g}").table.open(newline="") as file:
            row = next(r for r in csv.DictReader(file, delimiter="\t") if r["scan"] == "s250")
        counts.append(int(row["common_reflections"]))
    assert 0.3 * counts[0] < counts[1] < 0.7 * counts[0]
    assert float(row["scale"]) == pytest.approx(0.9, abs=5 * float(row["scale_sigma"]))


def test_what_makes_no_series_is_refused(inputs: temperature_series.Inputs, tmp_path: Path) -> None:
    with pytest.raises(
        HklflowError, match="8 orientations have 16 rotations, but there are 15 peak tables"
    ):
        run(inputs.model_copy(update={"peaks": inputs.peaks[1:]}), tmp_path)
    lone = temperature_series.Inputs(
        orientations=inputs.orientations[:1], peaks=inputs.peaks[:2], scales=inputs.scales[:2]
    )
    with pytest.raises(HklflowError, match="the parent s300 of s200 is not among"):
        run(lone, tmp_path)
    double = temperature_series.Inputs(
        orientations=[inputs.orientations[1]] * 2,
        peaks=inputs.peaks[2:4] * 2,
        scales=inputs.scales[2:4] * 2,
    )
    with pytest.raises(HklflowError, match="give each scan of one sample once"):
        run(double, tmp_path)
    assert not (tmp_path / "series.tsv").exists()


def test_narrow_reflections_and_strangers_are_said(tmp_path: Path) -> None:
    scans = {"hot": Truth(300, "hot"), "cold": Truth(100, "hot")}
    given = write_sample(tmp_path / "sample", scans)
    table = nexus.read_peaks(given.peaks[2])
    nothing = table.select(np.zeros(len(table), bool))
    nexus.write_peaks(given.peaks[2], nothing)
    second = nexus.read_peaks(given.peaks[3])
    nexus.write_peaks(given.peaks[3], replace(second, flags=np.full(len(second), 32)))
    orientation = stage.read_json(given.orientations[1])
    orientation["rotations"] = {"r9": orientation["rotations"]["r1"]} | {
        "r8": orientation["rotations"]["r2"]
    }
    stage.write_json(given.orientations[1], orientation)
    told = stage.read_json(run(given, tmp_path).findings)["sentences"]
    assert any("cold: no rocking width" in sentence for sentence in told)
    assert any("cold: no scale, because it has only 0 reflections" in sentence for sentence in told)


def test_sentences_name_their_scans_once_and_have_a_command_that_shows_them(
    tmp_path: Path,
) -> None:
    """`cold` stood only in the settings to paste; six lines differed in the scan alone."""
    given = write_sample(tmp_path / "sample", {x: Truth(t, "hot") for x, t in HOT_AND_COLD})
    slip = "r1: the crystal slipped; `per_scan: {s/cold: {import_scan: {leave_out: [r1:1-2]}}}`"
    change = stage.read_json(given.orientations[1])
    change["warnings"] = [slip]
    change["symmetry"] |= {"fraction unindexed": 0.0, "motions": [{"sentence": slip}]}
    stage.write_json(given.orientations[1], change)
    for path in given.peaks:
        table = nexus.read_peaks(path)
        nexus.write_peaks(path, table.select(np.zeros(len(table), bool)))
    found = stage.read_json(run(given, tmp_path).findings)
    (named,) = [x for x in found["sentences"] if "slipped" in x]
    assert named == f"cold: {slip}"
    place = f"{given.orientations[1]}/symmetry/motions"
    assert found["commands"][named] == f"hklflow show {place}"
    (narrow,) = [x for x in found["sentences"] if "no rocking width" in x]
    assert narrow.startswith("hot, cold: no rocking width, because too few of the 0 strong")


def test_expansion_of_the_parent_with_five_temperatures(findings: dict[str, Any]) -> None:
    (found,) = findings["expansions"]
    assert found["parent"] == "s300"
    assert found["reference"] == "s300"
    assert found["temperatures (K)"] == [100, 150, 200, 250, 300]
    # Of `Truth.cell`: a contracts by 1.2e-5 (T - 300) + 1e-8 (T - 300)².
    mean, errors = (
        np.array(found[x]) for x in ("mean expansion (1/K)", "covariance of the mean expansion")
    )
    truth = (1 - (1 + 1.2e-5 * -200 + 1e-8 * 200**2)) / 200
    assert mean[0] == pytest.approx(truth, abs=4 * np.sqrt(errors[0, 0]))
    assert mean[0] == pytest.approx(truth, rel=0.1)
    assert found["sentences"][0].startswith("the cell of parent s300 expands by ")


@dataclass(frozen=True)
class Pressed(Truth):
    """Scan at room temperature under pressure; the linear moduli of a and c are 330 and 210 GPa."""

    pressure: float = 0.0

    @property
    def cell(self) -> np.ndarray:
        a = 5.1 * (1 + 9 * self.pressure / 330) ** (-1 / 9)
        return np.array([a, a, 7.3 * (1 + 7 * self.pressure / 210) ** (-1 / 7), 90, 90, 90])


def test_under_pressure_a_cell_shrinks_and_no_transition_is_claimed(tmp_path: Path) -> None:
    pressures = [0.0, 1.2, 2.5, 3.6, 5.1, 6.3, 7.4, 8.5]
    scans = {f"{p:g}GPa": Pressed(295.0, "0GPa", pressure=p) for p in pressures}
    along = stage.Along(
        name="pressure", symbol="p", unit="GPa", values={f"{p:g}GPa": p for p in pressures}
    )
    done = run(write_sample(tmp_path / "in", scans), tmp_path / "out", along)
    data = json.loads(done.findings.read_text())
    (found,) = data["expansions"]
    assert data["transitions"] == []
    assert found["p_c (GPa)"] is None
    assert found["pressure (GPa)"] == pressures
    assert not any("spontaneous" in key for key in found)
    first, last = (scans[f"{p:g}GPa"].cell for p in (0.0, 8.5))
    truth = 0.5 * ((last / first) ** 2 - 1)[[0, 2]] / 8.5
    mean, sigma = (np.array(found["mean expansion (1/GPa)"]),
                   np.sqrt(np.diag(found["covariance of the mean expansion"])))  # fmt: skip
    assert mean[[0, 2]] == pytest.approx(truth, abs=4 * sigma[2])
    text = " ".join([*found["sentences"], *data["sentences"]])
    assert "the linear compressibility of parent 0GPa is " in text
    assert "no transition is claimed" in text
    for word in (" K", "temperature", "cooling", "expan", "T_c"):
        assert word not in text
    with done.table.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [float(row["pressure"]) for row in rows] == pressures
    assert "temperature" not in rows[0]
    assert taken.accepted(done.series, done.table, axis="pressure") == set()
    with open_entry(done.series) as entry:
        assert list(entry["cell"].attrs["axes"]) == ["pressure"]
        assert entry["cell/pressure"].attrs["units"] == "GPa"
    assert hklflow.open(done.series)["a"].dims == ("pressure",)


def test_too_few_pressures_are_said(tmp_path: Path) -> None:
    scans = {f"{p}GPa": Pressed(295.0, "0GPa", pressure=p) for p in (0, 2, 4)}
    values = {f"{p}GPa": float(p) for p in (0, 2, 4)}
    along = stage.Along(name="pressure", symbol="p", unit="GPa", values=values)
    done = run(write_sample(tmp_path / "in", scans), tmp_path / "out", along)
    (first, *_) = json.loads(done.findings.read_text())["sentences"]
    assert first == (
        "the cell of parent 0GPa is not tested for a transition along pressure: this needs 5 "
        "values of pressure with a refined cell, and there are 3 in all"
    )
