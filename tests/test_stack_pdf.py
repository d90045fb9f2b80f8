"""Stage `stack_pdf`: pair distributions of known correlations, opened by nexusformat and silx."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.nexus.lattice_vectors import write_covariance
from hklflow.stages import pdf, stack_pdf
from hklflow.volumes import extrema
from tests import taken

GRID = Grid.symmetric([1.8, 1.8, 1.2], [0.1, 0.1, 0.1])
Q_MAX = 4.5
NOISE = 0.004
TEMPERATURES = {"warm": 300.0, "cold": 100.0, "middle": 200.0}
#: Vector -> ΔPDF at a temperature; the last changes its sign.
CORRELATIONS = {
    (1.0, 0.0, 0.0): lambda t: 1.0 - t / 1000,
    (1.3, 0.4, 0.0): lambda t: -0.7 + t / 2000,
    (0.0, 0.0, 1.0): lambda t: 0.4,
    (0.8, 0.3, 0.6): lambda t: 0.6 * (1 - t / 200),
}
ORIGIN = 10.0  # its ripple at 2.1 Å is stronger than the last correlation


def axes(a: float = 4.8) -> np.ndarray:
    """Rows a, b, c of a hexagonal cell in Cartesian Å."""
    return np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 7.2]])


def turns() -> list[np.ndarray]:
    """6/m on vectors of direct space: turns by 60° about c, each with inversion."""
    found = []
    for n in range(6):
        c, s = np.cos(n * np.pi / 3), np.sin(n * np.pi / 3)
        turned = axes() @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ np.linalg.inv(axes())
        found += [np.rint(turned.T), -np.rint(turned.T)]
    return found


#: On hkl, which are what keeps h · x.
LAUE = [np.rint(np.linalg.inv(r).T).astype(int).tolist() for r in turns()]


def mates(xyz: Any) -> np.ndarray:
    return np.unique(np.round([r @ np.asarray(xyz) for r in turns()], 9) + 0.0, axis=0)


def ball(r: np.ndarray) -> np.ndarray:
    """What a point is seen as through data that reach to Q_MAX: a peak with its ripple."""
    x = np.maximum(Q_MAX * r, 1e-3)
    return 3 * (np.sin(x) - x * np.cos(x)) / x**3


def pairs(temperature: float) -> np.ndarray:
    """ΔPDF (z, y, x)."""
    x, y, z = (GRID.axis(i) for i in range(3))
    points = np.stack(np.broadcast_arrays(x, y[:, None], z[:, None, None]), axis=-1)
    total = ORIGIN * ball(np.linalg.norm(points @ axes(), axis=-1))
    for xyz, size in CORRELATIONS.items():
        for mate in mates(xyz):
            r = np.linalg.norm((points - mate) @ axes(), axis=-1)
            total += size(temperature) * ball(r)
    return total


def cell_at(temperature: float) -> np.ndarray:
    a = 4.8 * (1 + 1e-5 * temperature)
    return np.array([a, a, 7.2, 90.0, 90.0, 120.0])


def write_member(path: Path, temperature: float, seed: int, **notes: Any) -> Path:
    rng = np.random.default_rng(seed)
    sigma = NOISE * (1 + seed)
    data = pairs(temperature) + rng.normal(0, sigma, GRID.array_shape)
    data[0, 0, 0] = np.nan
    errors = np.full(data.shape, sigma)
    errors[0, 0, 0] = np.nan
    path.parent.mkdir(parents=True, exist_ok=True)
    types = {"data": np.float32, "data_errors": np.float32}
    with nexus.GridWriter(
        path, GRID, cell_at(temperature), "ΔPDF", types, group="pdf", direct=True
    ) as writer:
        writer.write(0, data=data.astype(np.float32), data_errors=errors.astype(np.float32))
        writer.note({"q_max": Q_MAX, "operations": LAUE} | notes)
    return path


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("experiment") / "results"
    return {
        name: write_member(folder / name / "delta_pdf.nxs", temperature, seed)
        for seed, (name, temperature) in enumerate(TEMPERATURES.items())
    }


def run(volumes: dict[str, Path], folder: Path, **params: Any) -> stack_pdf.Outputs:
    folder.mkdir(parents=True, exist_ok=True)
    outputs = stack_pdf.Outputs(
        stack=folder / "pdf.nxs",
        table=folder / "pdf.tsv",
        picture=folder / "pdf.png",
        changes=folder / "series.tsv",
        changes_picture=folder / "series.png",
        results=folder / "series.json",
    )
    settings: dict[str, Any] = {
        "scans": list(volumes),
        "temperatures": [TEMPERATURES.get(name, 250.0) for name in volumes],
        "parent": "warm",
    }
    scales = folder / "scales.tsv"
    if not scales.is_file():
        lines = ["scan\tscale\tscale_sigma\tdebye_waller", *(f"{x}\t1\t0\t0" for x in volumes)]
        scales.write_text("\n".join(lines) + "\n")
    stage.run(
        stack_pdf.main,
        inputs=stack_pdf.Inputs(volumes=list(volumes.values()), series=scales),
        outputs=outputs,
        params=stack_pdf.Params(**(settings | params)),
        threads=1,
    )
    return outputs


@pytest.fixture(scope="module")
def stacked(volumes: dict[str, Path]) -> stack_pdf.Outputs:
    return run(volumes, volumes["warm"].parents[1] / "stack", number=4)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def member(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path) as file:
        return file["entry/pdf/data"][()], file["entry/pdf/data_errors"][()]


# ------------------------------------------------------------------------- the file


def test_nexusformat_opens_one_four_dimensional_nxdata(
    stacked: stack_pdf.Outputs, volumes: dict[str, Path]
) -> None:
    from nexusformat.nexus import nxload

    assert taken.accepted(stacked.stack, stacked.table, stacked.changes) == set()
    data = nxload(str(stacked.stack), "r")["entry/pdf"]
    assert data.nxclass == "NXdata"
    assert data.nxname == "pdf"
    assert [axis.nxname for axis in data.nxaxes] == ["temperature", "z", "y", "x"]
    assert data.nxsignal.shape == (3, *GRID.array_shape)
    assert data.is_plottable()
    np.testing.assert_allclose(data.nxangles, [120.0, 90.0, 90.0])
    np.testing.assert_array_equal(data["temperature"].nxdata, [100, 200, 300])
    for i, name in enumerate(["cold", "middle", "warm"]):
        values, errors = member(volumes[name])
        np.testing.assert_array_equal(data["data"][i].nxdata, values)
        np.testing.assert_array_equal(data.nxerrors[i].nxdata, errors)


def test_silx_opens_the_stack_and_its_vectors(
    stacked: stack_pdf.Outputs, volumes: dict[str, Path]
) -> None:
    import silx.io
    from silx.io import nxdata

    with silx.io.open(str(stacked.stack)) as file:
        default = nxdata.get_default(file)
        assert default is not None
        assert default.is_valid
        assert default.axes_dataset_names == ["temperature", "y", "x"]
        assert [len(axis) for axis in default.axes] == list(default.signal.shape)
        values, errors = member(volumes["cold"])
        plane = GRID.plane_near_zero(2)
        np.testing.assert_array_equal(default.signal[0], values[plane])
        np.testing.assert_array_equal(default.errors[0], errors[plane])
        lengths = [file[f"entry/pdf/{x}"].attrs["scaling_factor"] for x in "xyz"]
        np.testing.assert_allclose(lengths, cell_at(100.0)[:3])
        curves = nxdata.NXdata(file["entry/vectors"])
        assert curves.is_valid
        assert curves.axes_dataset_names == ["vector", "temperature"]
        assert curves.errors is not None
        assert curves.signal.shape == (4, 3)


def test_the_results_can_be_moved(
    stacked: stack_pdf.Outputs,
    volumes: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(volumes["warm"].parents[1], moved)
    monkeypatch.chdir(tmp_path)
    (moved / "warm/delta_pdf.nxs").unlink()
    with h5py.File("elsewhere/stack/pdf.nxs") as file:
        group = file["entry/pdf"]
        for name in ("data", "data_errors"):
            for source in group[name].virtual_sources():
                assert not Path(source.file_name).is_absolute()
            assert np.isnan(group[name][2]).all()
        np.testing.assert_array_equal(group["data"][0], member(volumes["cold"])[0])
    assert (moved / "stack/pdf.nxs").stat().st_size < 0.5 * member(volumes["cold"])[0].nbytes


# ------------------------------------------------------------------------- the vectors


def test_the_strongest_distinct_correlations_are_chosen(stacked: stack_pdf.Outputs) -> None:
    found = rows(stacked.table)
    assert len(found) == 4 * 3
    assert [row["scan"] for row in found[:3]] == ["cold", "middle", "warm"]
    for row, truth in zip(found[::3], CORRELATIONS, strict=True):
        xyz = [float(row[x]) for x in "xyz"]
        assert np.abs(mates(truth) - xyz).max(axis=1).min() < 1e-6
        assert xyz == pytest.approx(truth)  # they are the plainest of their mates


def test_values_lengths_and_errors_are_the_known_ones(stacked: stack_pdf.Outputs) -> None:
    grown = {name: cell_at(t)[0] / 4.8 for name, t in TEMPERATURES.items()}
    found = rows(stacked.table)
    assert len(found) == 4 * 3
    for row in found:
        xyz = np.array([float(row[x]) for x in "xyz"])
        i, j, k = np.rint((xyz - GRID.first) / GRID.step).astype(int)
        temperature = float(row["temperature"])
        assert temperature == TEMPERATURES[row["scan"]]
        sigma = NOISE * (1 + list(TEMPERATURES).index(row["scan"]))
        assert float(row["value_sigma"]) == pytest.approx(sigma, rel=1e-5)
        assert abs(float(row["value"]) - pairs(temperature)[k, j, i]) < 4 * sigma
        flat = xyz @ axes() * [grown[row["scan"]], grown[row["scan"]], 1]
        assert float(row["length"]) == pytest.approx(np.linalg.norm(flat), rel=1e-5)


def test_the_file_has_the_table(stacked: stack_pdf.Outputs) -> None:
    with h5py.File(stacked.stack) as file:
        group = file["entry/vectors"]
        for n, row in enumerate(rows(stacked.table)):
            i, j = divmod(n, 3)
            assert [float(row[x]) for x in "xyz"] == pytest.approx(group["xyz"][i].tolist())
            for column, name in (
                ("value", "value"),
                ("value_sigma", "value_errors"),
                ("length", "length"),
            ):
                assert float(row[column]) == pytest.approx(group[name][i, j], rel=1e-5)
        assert group["length"].attrs["units"] == "angstrom"


def test_given_vectors_are_interpolated(volumes: dict[str, Path], tmp_path: Path) -> None:
    wanted = [(1.0, 0.0, 0.0), (0.93, 0.25, -0.1), (1.8, 0, 0), (-1.75, -1.8, -1.2)]
    outputs = run({name: volumes[name] for name in ("cold", "warm")}, tmp_path, vectors=wanted)
    found = rows(outputs.table)[::2]
    values, _ = (array.astype(float) for array in member(volumes["cold"]))
    z, y, x = 11, (18 + 2, 18 + 3), (18 + 9, 18 + 10)
    weights = ((0.7 * 0.5, 0.3 * 0.5), (0.7 * 0.5, 0.3 * 0.5))
    expected = sum(weights[j][i] * values[z, y[j], x[i]] for j in range(2) for i in range(2))
    assert float(found[0]["value"]) == pytest.approx(values[12, 18, 28], rel=1e-5)
    assert float(found[1]["value"]) == pytest.approx(expected, rel=1e-5)
    # Never larger than that of the voxels, for their noise may be the same.
    assert float(found[1]["value_sigma"]) == pytest.approx(NOISE * 2, rel=1e-5)
    assert float(found[2]["value"]) == pytest.approx(values[12, 18, 36], rel=1e-5)
    assert found[3]["value"] == "nan"  # beside what is not known


@pytest.mark.parametrize("direction", [(1, 0, 0), (0, 0, 1), (1, 1, 1)])
def test_linear_functions_are_interpolated_exactly(direction: Any) -> None:
    x, y, z = (GRID.axis(i) * d for i, d in enumerate(direction))
    values = z[:, None, None] + y[:, None] + x
    for point in np.random.default_rng(4).uniform(-1.2, 1.2, (20, 3)):
        region, weights = extrema.trilinear(GRID, point) or pytest.fail("it is inside")
        assert np.sum(weights * values[region]) == pytest.approx(point @ np.array(direction))
        assert weights.sum() == pytest.approx(1)
    assert extrema.trilinear(GRID, (1.81, 0, 0)) is None


def test_ripple_is_not_a_feature_but_what_is_strong_is() -> None:
    points = np.array([[0, 0, 0], [1.0, 0, 0], [1.3, 0, 0], [0, 1.3, 0], [0.3, 0, 0], [-3, 0, 0.0]])
    strength = np.array([10.0, 5.0, 1.0, 0.9, 0.8, 0.7])
    inversion = np.array([np.eye(3), -np.eye(3)])
    found = extrema.distinct(points, strength, 9, inversion, np.eye(3), 0.5, (1.5, 0.15))
    # [1.3 0 0] is the same as [1 0 0]; [0 1.3 0] ripple of the origin; [0.3 0 0] the origin.
    assert found.tolist() == [0, 1, 5]
    found = extrema.distinct(points, strength, 9, inversion, np.eye(3), 0.2, (1.5, 0.05))
    assert found.tolist() == [0, 1, 2, 3, 4, 5]
    assert extrema.distinct(points, strength, 2, inversion, np.eye(3), 0.2).tolist() == [0, 1]


# ------------------------------------------------------------------------- bad input


def test_without_symmetry_only_inversion_is_known(
    volumes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_member(tmp_path / "a/delta_pdf.nxs", 100.0, 5, operations=None)
    outputs = run({"cold": path}, tmp_path, number=3)
    assert "have no symmetry operations" in capsys.readouterr().out
    found = [[float(row[x]) for x in "xyz"] for row in rows(outputs.table)]
    # The three pairs of mates of the strongest in 6/m.
    seen = {tuple(sign * x + 0.0 for x in xyz) for xyz in found for sign in (1, -1)}
    assert seen == set(map(tuple, mates((1, 0, 0)).tolist()))


def test_a_reach_that_is_not_known_is_asked_for(volumes: dict[str, Path], tmp_path: Path) -> None:
    path = write_member(tmp_path / "a/delta_pdf.nxs", 100.0, 5)
    with h5py.File(path, "r+") as file:
        del file["entry/notes/notes"]
        file["entry/notes/notes"] = "{}"
    with pytest.raises(HklflowError, match=r"delta_pdf\.nxs has no q_max"):
        run({"cold": volumes["cold"], "warm": path}, tmp_path)
    run({"cold": volumes["cold"], "warm": path}, tmp_path, vectors=[(1, 0, 0)])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"temperatures": [300.0, None]}, "scan cold has no temperature"),
        ({"temperatures": [300.0]}, "2 volumes, 2 scans and 1 temperatures"),
        ({"vectors": [(1, 0, 0), (0, 2.5, 0)]}, "0 2.5 0 is outside"),
    ],
)
def test_what_cannot_be_stacked_is_refused(
    volumes: dict[str, Path], tmp_path: Path, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(HklflowError, match=message):
        run({name: volumes[name] for name in ("warm", "cold")}, tmp_path, **params)


@pytest.mark.slow
def test_what_the_stage_pdf_made_is_told_apart_by_symmetry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """S with one correlation at six equivalent vectors and one along c: two vectors, not more."""
    grid = Grid.symmetric([2.2, 2.2, 3.0], 0.1)
    l, k, h = (  # noqa: E741
        2 * np.pi * a for a in np.meshgrid(grid.axis(2), grid.axis(1), grid.axis(0), indexing="ij")
    )
    made = {}
    for name, temperature in (("warm", 300.0), ("cold", 100.0)):
        size = temperature / 300
        s = 3 - 0.6 * size * (np.cos(h) + np.cos(k) + np.cos(h + k)) + 0.4 * np.cos(l)
        folder = tmp_path / name
        folder.mkdir()
        arrays = {"data": s.astype("f4"), "data_errors": np.full(s.shape, 0.05, "f4")}
        types = dict.fromkeys(arrays, "f4")
        with nexus.GridWriter(folder / "s.nxs", grid, cell_at(temperature), "S", types) as writer:
            writer.write(0, **arrays)
            writer.note({"operations": LAUE, "space_group": "P 6/m", "q_max": 2.6})
        made[name] = folder / "pdf.nxs"
        pdf.main(
            inputs=pdf.Inputs(filled=folder / "s.nxs"),
            outputs=pdf.Outputs(
                pdf=made[name], picture=folder / "p.png", metrics=folder / "p.json"
            ),
            params=pdf.Params(taper="hann"),
        )
    outputs = run(made, tmp_path / "stack", number=2)
    assert "warning" not in capsys.readouterr().out
    found = [tuple(abs(float(row[n])) for n in "xyz") for row in rows(outputs.table)[::2]]
    assert {tuple(sorted(v[:2])) + v[2:] for v in found} <= {(0, 0, 1), (0, 1, 0), (1, 1, 0)}
    assert len({v[2] for v in found}) == 2


def test_an_hkl_volume_is_refused(volumes: dict[str, Path], tmp_path: Path) -> None:
    ones = np.ones(GRID.array_shape)
    path = tmp_path / "s.nxs"
    nexus.write_volume(path, nexus.Volume(GRID, cell_at(0), ones, ones, ones, ones), "S(Q)")
    with pytest.raises(HklflowError, match=r"s\.nxs is not the product"):
        run({"warm": path, "cold": volumes["cold"]}, tmp_path)


def test_vectors_pass_through_a_command_line() -> None:
    from hklflow.experiment.config import flags

    given = stack_pdf.Params(
        scans=["a"], temperatures=[1.0], parent="a", vectors=[(1, 0, 0), (-0.5, 0, 1)]
    )
    words = flags(given).split()
    at = words.index("--vectors") + 1
    again = stack_pdf.Params.model_validate(
        {"scans": ["a"], "temperatures": [1.0], "parent": "a", "vectors": words[at : at + 6]}
    )
    assert again == given


# ------------------------------------------------------- changes with temperature

SMALL = Grid.symmetric([3.5, 3.5, 3.5], [0.5, 0.5, 0.5])
SIGMA = 0.01
SERIES = {"a": 100.0, "b": 150.0, "c": 200.0, "d": 250.0, "warm": 300.0}
SCALES = {"a": 1.1, "b": 0.93, "c": 1.0, "d": 1.04, "warm": 1.0}
TAPER = {"kind": "tukey", "flat": 0.5}
#: Of the ΔPDF with a taper up to 6 1/Å, on a triclinic lattice of about 5 Å.
CELL = np.array([5.0, 5.2, 5.5, 85.0, 95.0, 100.0])


def true_value(xyz: tuple[int, ...], temperature: float) -> float:
    """(1 0 0) falls in a step, (0 1 -1) rises with T; every vector has some value."""
    if xyz == (1, 0, 0):
        return 0.2 - 0.1 * (temperature < 180)
    if xyz == (0, 1, -1):
        return 0.0005 * temperature
    return 0.1 * float(np.cos(np.dot(xyz, (1.0, 2.1, 3.3))))


def write_series(
    folder: Path, *, notes: dict[str, dict[str, Any]] | None = None
) -> dict[str, Path]:
    """Volumes with independent errors, their covariance, and the table of their scales."""
    nodes = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    keys = [tuple(x) for x in nodes.tolist() if tuple(x) >= (0, 0, 0)]
    keys.sort(key=lambda x: float(np.dot(x, x)))
    covariance = SIGMA**2 * np.eye(len(keys))
    rng = np.random.default_rng(5)
    made = {}
    lines = ["scan\tscale\tscale_sigma\tdebye_waller"]
    for name, temperature in SERIES.items():
        scale = SCALES[name]
        data = rng.normal(0, SIGMA, SMALL.array_shape)
        data = (data + data[::-1, ::-1, ::-1]) / np.sqrt(2)
        for key in keys:
            for sign in (1, -1):
                x, y, z = (round(sign * k / 0.5) + 7 for k in key)
                data[z, y, x] = (
                    1.0 if not any(key) else data[z, y, x] + true_value(key, temperature)
                )
        own = (notes or {}).get(name, {})
        made[name] = folder / name / "delta_pdf_transform.nxs"
        made[name].parent.mkdir(parents=True)
        arrays = {"data": scale * data, "data_errors": np.full(data.shape, scale * SIGMA)}
        types = dict.fromkeys(arrays, np.float32)
        with nexus.GridWriter(
            made[name], SMALL, CELL, "ΔPDF", types, group="pdf", direct=True
        ) as writer:
            writer.write(0, **{k: v.astype(np.float32) for k, v in arrays.items()})
            laue = [np.eye(3).tolist(), (-np.eye(3)).tolist()]
            writer.note({"q_max": 6.0, "operations": laue, "taper": TAPER} | own)
            if own.get("covariance", True):
                known = np.array(keys, dtype=float), scale**2 * covariance
                writer.add_group(lambda entry, known=known: write_covariance(entry, *known))
        lines.append(f"{name}\t{scale}\t{0.005 * (name != 'warm')}\t0")
    (folder / "stack").mkdir()
    (folder / "stack/scales.tsv").write_text("\n".join(lines) + "\n")
    return made


def run_series(folder: Path, made: dict[str, Path], **params: Any) -> stack_pdf.Outputs:
    temperatures = [SERIES[name] for name in made]
    return run(made, folder / "stack", number=3, **({"temperatures": temperatures} | params))


def test_vectors_that_change_are_claimed_with_step_and_line(tmp_path: Path) -> None:
    outputs = run_series(tmp_path, write_series(tmp_path))
    results = json.loads(outputs.results.read_text())
    found = {tuple(map(int, x["vector"])): x for x in results["changes"]}
    assert {(1, 0, 0), (0, 1, -1)} <= set(found)
    assert len(found) <= 3
    assert found[1, 0, 0]["step between (K)"] == [150.0, 200.0]
    assert found[0, 1, -1]["monotone"]
    assert found[0, 1, -1]["change on cooling"] == pytest.approx(-0.1, abs=0.05)
    assert results["common factor"] == pytest.approx([1.0] * 5, abs=0.05)
    assert "of 120 vectors" in results["sentences"][0]
    assert results["findings"][0]["command"].endswith("stack_warm/pdf_series_transform.json")


def test_the_table_has_values_over_scale_and_differences_to_the_parent(tmp_path: Path) -> None:
    outputs = run_series(tmp_path, write_series(tmp_path))
    table = rows(outputs.changes)
    assert len(table) == 120 * 5
    pulls = []
    for row in table:
        key = tuple(int(float(row[x])) for x in "xyz")
        t = SERIES[row["scan"]]
        away = float(row["value"]) - true_value(key, t)
        assert abs(away) < 5 * float(row["value_sigma"])
        apart = true_value(key, t) - true_value(key, 300.0)
        if row["scan"] == "warm":
            assert float(row["difference"]) == 0
        else:
            pulls.append((float(row["difference"]) - apart) / float(row["difference_sigma"]))
    assert abs(np.mean(pulls)) < 0.2
    assert 0.8 < np.std(pulls) < 1.25


def test_vectors_that_are_named_in_angstrom_are_fractions_of_the_parents_cell(
    tmp_path: Path,
) -> None:
    vectors = [(2.5, 2.6, 2.75), (20.0, 0, 0), (0.5, 0, 0), (5.0, 0, 0)]
    made = write_series(tmp_path)
    with pytest.raises(HklflowError, match="4 0 0 is outside"):
        run_series(tmp_path, made, vectors=vectors, unit="angstrom")
    del vectors[1]
    outputs = run_series(tmp_path, made, vectors=vectors, unit="angstrom", lattice_vectors=0)
    table = {tuple(float(row[x]) for x in "xyz"): row["changes"] for row in rows(outputs.changes)}
    # (1 0 0) changes, half the diagonal does not, and the third has the errors of the origin.
    assert table == {(1, 0, 0): "yes", (0.5, 0.5, 0.5): "no", (0.1, 0, 0): "not tested"}
    (note,) = [x for x in json.loads(outputs.results.read_text())["sentences"] if "(0.1 0 0)" in x]
    assert "nearer to (0 0 0) than the resolution" in note


def test_doubtful_scans_are_not_compared_and_the_reason_is_given(tmp_path: Path) -> None:
    gap = "3.4 % of the taper's weight was not measured but filled: measure more"
    notes = {
        "a": {"metrics": {"warnings": [gap]}},
        "b": {"metrics": {"warnings": [gap.replace("3.4", "2.8")]}},
        "c": {"covariance": False},
        # A doubt of an earlier stage says nothing about the errors of the fill.
        "d": {"metrics": {"warnings": ["moved"]}, "doubts": ["moved"]},
    }
    outputs = run_series(tmp_path, write_series(tmp_path, notes=notes))
    results = json.loads(outputs.results.read_text())
    assert results["compared scans"] == ["d", "warm"]
    reasons = [x for x in results["sentences"] if "not compared" in x]
    assert reasons[0] == f"3D-ΔPDF: a, b not compared with other scans: {gap}"
    assert reasons[1].startswith("3D-ΔPDF: c not compared with other scans: there is no covariance")
    verdicts = {(row["scan"], row["changes"]) for row in rows(outputs.changes)}
    assert verdicts >= {("a", "not tested"), ("d", "no")}
    assert all(verdict == "not tested" for scan, verdict in verdicts if scan in "abc")


def test_changes_are_not_claimed_where_sigma_lacks_a_doubt_of_the_fill(tmp_path: Path) -> None:
    """A warning of the fill that σ contains is listed; the scan is compared."""
    rises = "S(Q) rises as no model does (chi-squared 4.7 per degree of freedom); use a smaller one"
    others = rises.replace("4.7", "3.1")
    notes = {
        "a": {"doubts": [rises], "not in sigma": [rises], "covariance": False},
        "b": {"doubts": [others], "not in sigma": [others]},
        "c": {"doubts": ["radius: 0.2 1/Å is used instead"], "not in sigma": []},
    }
    outputs = run_series(tmp_path, write_series(tmp_path, notes=notes))
    results = json.loads(outputs.results.read_text())
    assert results["compared scans"] == ["c", "d", "warm"]
    (reason,) = [x for x in results["sentences"] if "not compared" in x]
    assert reason == f"3D-ΔPDF: a, b not compared with other scans: {rises}"
    # (1 0 0) changes between b and c.
    assert [1, 0, 0] not in [x["vector"] for x in results["changes"]]
    verdicts = {(row["scan"], row["changes"]) for row in rows(outputs.changes)}
    assert all(verdict == "not tested" for scan, verdict in verdicts if scan in "ab")
    told = [f"a: {rises}", f"b: {others}", "c: radius: 0.2 1/Å is used instead"]
    assert results["doubts"] == told


def test_one_scan_is_not_compared(tmp_path: Path) -> None:
    made = write_series(tmp_path)
    outputs = run_series(tmp_path, {"warm": made["warm"]})
    results = json.loads(outputs.results.read_text())
    assert results["changes"] == []
    assert results["sentences"] == []
    assert len(rows(outputs.changes)) == 120
