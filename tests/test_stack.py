"""Stage `stack`: synthetic volumes of known intensities, opened by nexusformat and by silx."""

import csv
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import hklflow
from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.export.series import write_temperatures, write_xtec
from hklflow.export.source import open_stack
from hklflow.geometry.grid import Grid
from hklflow.stages import stack
from hklflow.transform import estimator
from tests import taken

GRID = Grid.symmetric([2.6, 2.6, 1.5], [0.05, 0.05, 0.1])
CELL = np.array([4.8, 4.8, 7.2, 90.0, 90.0, 120.0])
WIDTH = 0.06
# Integral of S over each reflection and its symmetry mates in 6/mmm, r.l.u.³ times S at 300 K.
STRENGTH = {(1, 0, 0): 0.9, (1, 1, 0): 0.5, (2, 0, 0): 0.7, (0, 0, 1): 0.8, (1, 0, 1): 0.1}
WEAKEST = (1, 1, 1)  # 0.05
SATELLITE = (0.5, 0.0, 0.0)
TEMPERATURES = {"warm": 300.0, "cold": 100.0, "middle": 200.0, "again": 300.0}


def mates(hkl: tuple[float, float, float]) -> set[tuple[float, float, float]]:
    """All reflections equivalent in 6/mmm: h, k, -h-k in any order and sign, ±l."""
    h, k, m = hkl
    i = -h - k
    pairs = [(h, k), (k, i), (i, h), (k, h), (i, k), (h, i)]
    return {
        (s * a + 0.0, s * b + 0.0, t * m + 0.0) for a, b in pairs for s in (1, -1) for t in (1, -1)
    }


def strength(hkl: tuple[float, float, float], temperature: float) -> float:
    """Debye-Waller-like for reflections; the satellite grows below 250 K."""
    if hkl == SATELLITE:
        return 0.3 * max(0.0, 1 - temperature / 250)
    base = STRENGTH.get(hkl, 0.05)  # type: ignore[call-overload]
    return float(base * np.exp(1e-3 * (300 - temperature)))


def scattering(temperature: float) -> np.ndarray:
    """S (l, k, h) on a background that slopes."""
    axes = [GRID.axis(i) for i in range(3)]
    s = 0.5 + 0.05 * axes[0] + np.zeros(GRID.array_shape)
    for kind in (*STRENGTH, WEAKEST, SATELLITE):
        for point in mates(kind):
            h, k, m = (
                np.exp(-0.5 * ((axis - x) / WIDTH) ** 2) / (WIDTH * np.sqrt(2 * np.pi))
                for axis, x in zip(axes, point, strict=True)
            )
            s += strength(kind, temperature) * m[:, None, None] * k[:, None] * h
    return s


def write_member(
    path: Path,
    temperature: float,
    seed: int,
    grid: Grid = GRID,
    notes: dict[str, Any] | None = None,
) -> Path:
    rng = np.random.default_rng(seed)
    at = np.meshgrid(*(grid.axis(i) for i in (2, 1, 0)), indexing="ij")
    norm = 20 * (1 + 0.4 * np.sin(at[2] + at[1]) * np.cos(at[0]))
    norm[(at[2] > 0.4) & (at[1] > 0.4)] = 0  # a region that no scan measured
    counts = rng.poisson(norm * scattering(temperature)).astype(float)
    data, errors = estimator.intensity(counts, norm)
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = nexus.Volume(grid, CELL, counts, norm, data, errors, notes or {})
    nexus.write_volume(path, volume, "S(Q)")
    return path


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("experiment") / "results"
    return {
        name: write_member(folder / name / "transform.nxs", temperature, seed)
        for seed, (name, temperature) in enumerate(TEMPERATURES.items())
    }


def run(volumes: dict[str, Path], folder: Path, **params: Any) -> stack.Outputs:
    folder.mkdir(parents=True, exist_ok=True)
    outputs = stack.Outputs(
        stack=folder / "stack.nxs", table=folder / "reflections.tsv", picture=folder / "stack.png"
    )
    names = list(volumes)
    settings: dict[str, Any] = {
        "scans": names,
        "temperatures": [TEMPERATURES.get(name, 250.0) for name in names],
        "space_group": "P 6/m m m",
        "box": (0.2, 0.2, 0.3),
        "shell": 1,
    }
    stage.run(
        stack.main,
        inputs=stack.Inputs(volumes=list(volumes.values())),
        outputs=outputs,
        params=stack.Params(**(settings | params)),
        threads=1,
    )
    return outputs


@pytest.fixture(scope="module")
def stacked(volumes: dict[str, Path]) -> stack.Outputs:
    folder = volumes["warm"].parents[1] / "stack"
    wanted = [(1, 0, 0), (-1, 1, 0), (1, -1, 1), (-0.5, 0.5, 0), (-0.5, 0.0, 0.0), (1, 1, 0)]
    return run(volumes, folder, reflections=wanted)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


# ------------------------------------------------------------------------- the file


def test_nexusformat_opens_one_four_dimensional_nxdata(
    stacked: stack.Outputs, volumes: dict[str, Path]
) -> None:
    from nexusformat.nexus import nxload

    root = nxload(str(stacked.stack), "r")
    assert [axis.nxname for axis in root.plottable_data.nxaxes] == ["temperature", "Qk", "Qh"]
    data = root["entry/transform"]
    assert data.nxclass == "NXdata"
    assert data.nxsignal.nxname == "data"
    assert [axis.nxname for axis in data.nxaxes] == ["temperature", "Ql", "Qk", "Qh"]
    assert data.nxsignal.shape == (4, *GRID.array_shape)
    assert data.is_plottable()
    np.testing.assert_allclose(data.nxangles, [60.0, 90.0, 90.0])  # γ* of the hexagonal cell
    np.testing.assert_array_equal(data["temperature"].nxdata, [100, 200, 300, 300])
    for i, name in enumerate(["cold", "middle", "again", "warm"]):
        member = nexus.read_volume(volumes[name])
        np.testing.assert_array_equal(data["data"][i].nxdata, member.data)
        np.testing.assert_array_equal(data.nxerrors[i].nxdata, member.errors)
        np.testing.assert_array_equal(data["counts"][i].nxdata, member.counts)
        np.testing.assert_array_equal(data["norm"][i].nxdata, member.norm)


def test_silx_opens_the_stack_and_its_reflections(
    stacked: stack.Outputs, volumes: dict[str, Path]
) -> None:
    import silx.io
    from silx.io import nxdata

    with silx.io.open(str(stacked.stack)) as file:
        default = nxdata.get_default(file)
        assert default is not None
        assert default.is_valid
        assert default.signal_dataset_name == "data"
        assert default.axes_dataset_names == ["temperature", "Qk", "Qh"]
        assert [len(axis) for axis in default.axes] == list(default.signal.shape)
        assert default.interpretation == "image"
        cold, plane = nexus.read_volume(volumes["cold"]), GRID.plane_near_zero(2)
        assert cold.data is not None
        assert cold.errors is not None
        np.testing.assert_array_equal(default.signal[0], cold.data[plane])
        np.testing.assert_array_equal(default.errors[0], cold.errors[plane])
        lengths = [file[f"entry/transform/Q{x}"].attrs["scaling_factor"] for x in "hkl"]
        # a* = 4π / (a √3) of a hexagonal lattice, c* = 2π / c
        expected = [4 * np.pi / 4.8 / np.sqrt(3)] * 2 + [2 * np.pi / 7.2]
        np.testing.assert_allclose(lengths, expected)
        curves = nxdata.NXdata(file["entry/reflections"])
        assert curves.is_valid
        assert curves.axes_dataset_names == ["reflection", "temperature"]
        assert curves.errors is not None
        assert curves.signal.shape == (6, 4)


def test_the_results_can_be_moved(
    stacked: stack.Outputs,
    volumes: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = volumes["warm"].parents[1]
    moved = tmp_path / "elsewhere"
    shutil.copytree(results, moved)
    monkeypatch.chdir(tmp_path)
    (moved / "warm/transform.nxs").unlink()
    with h5py.File("elsewhere/stack/stack.nxs") as file:
        group = file["entry/transform"]
        for dataset in ("data", "data_errors", "counts", "norm"):
            for source in group[dataset].virtual_sources():
                assert not Path(source.file_name).is_absolute()
        cold = nexus.read_volume(volumes["cold"])
        np.testing.assert_array_equal(group["data"][0], cold.data)
        # What is not there must not look like a measured zero.
        assert np.isnan(group["data"][3]).all()
        assert np.isnan(group["data_errors"][3]).all()
        assert not group["norm"][3].any()
    # It takes no space of its own.
    assert (moved / "stack/stack.nxs").stat().st_size < 0.1 * cold.counts.nbytes


def test_members_of_other_number_types_stack(volumes: dict[str, Path], tmp_path: Path) -> None:
    fractional = nexus.read_volume(volumes["cold"])
    counts = fractional.counts + 0.25
    path = tmp_path / "fractional.nxs"
    other = nexus.Volume(GRID, CELL, counts, fractional.norm, fractional.data, fractional.errors)
    nexus.write_volume(path, other, "S(Q)")
    outputs = run({"cold": path, "warm": volumes["warm"]}, tmp_path, number=1)
    with h5py.File(outputs.stack) as file:
        np.testing.assert_array_equal(file["entry/transform/counts"][0], counts)
        whole = nexus.read_volume(volumes["warm"]).counts
        np.testing.assert_array_equal(file["entry/transform/counts"][1], whole)


# ------------------------------------------------------------------ the reflections


def test_intensities_are_the_known_ones(stacked: stack.Outputs) -> None:
    found = rows(stacked.table)
    assert len(found) == 6 * 4
    assert [row["scan"] for row in found[:4]] == ["cold", "middle", "again", "warm"]
    seen = 0
    for row in found:
        hkl = tuple(float(row[x]) for x in "hkl")
        kind = next(
            kind
            for kind in (*STRENGTH, WEAKEST, SATELLITE)
            if hkl in mates(kind)  # type: ignore[comparison-overlap]
        )
        value, sigma = float(row["intensity"]), float(row["intensity_sigma"])
        if hkl == (1, 1, 0):  # not measured
            assert np.isnan(value)
            assert np.isnan(sigma)
            continue
        # 0.225 r.l.u. on each side are 3.75 widths: 0.9996 of the peak along h, k and l.
        true = strength(kind, float(row["temperature"]))
        assert abs(value - true) < 4 * sigma + 2e-3 * true
        assert sigma < 0.02
        seen += 1
    assert seen == 20


def test_the_file_has_the_table(stacked: stack.Outputs) -> None:
    with h5py.File(stacked.stack) as file:
        group = file["entry/reflections"]
        values, sigma, hkl = (group[n][()] for n in ("intensity", "intensity_errors", "hkl"))
        at = group["temperature"][()]
        assert [x.decode() for x in file["entry/sample/scan"]] == [
            "cold",
            "middle",
            "again",
            "warm",
        ]
    for n, row in enumerate(rows(stacked.table)):
        i, j = divmod(n, 4)
        assert [float(row[x]) for x in "hkl"] == pytest.approx(hkl[i].tolist())
        assert float(row["temperature"]) == at[j]
        np.testing.assert_allclose(float(row["intensity"]), values[i, j], rtol=1e-5)
        np.testing.assert_allclose(float(row["intensity_sigma"]), sigma[i, j], rtol=1e-5)


def test_the_strongest_distinct_reflections_are_chosen(
    volumes: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 0
    read = nexus.OpenVolume.slab

    def slab(self: nexus.OpenVolume, first: int, last: int) -> Any:
        nonlocal largest
        largest = max(largest, last - first)
        return read(self, first, last)

    monkeypatch.setattr(nexus.OpenVolume, "slab", slab)
    outputs = run({name: volumes[name] for name in ("warm", "cold")}, tmp_path)
    hkl = [tuple(float(row[x]) for x in "hkl") for row in rows(outputs.table)[::2]]
    expected = sorted(STRENGTH, key=lambda kind: -STRENGTH[kind])
    for found, kind in zip(hkl, [*expected, WEAKEST], strict=True):
        assert found in mates(kind)
    assert not any(row["intensity"] == "nan" for row in rows(outputs.table))
    # Box and shell are 9 planes of the 31.
    assert largest == 9


def test_a_mate_on_an_even_norm_stands_for_its_set(tmp_path: Path) -> None:
    at = np.meshgrid(*(GRID.axis(i) for i in (2, 1, 0)), indexing="ij")
    # Longest exposed where h > 1.02, so that the norm steps through the mates with h = 1;
    # evenly but little exposed where h < -0.5.
    norm = np.where(at[2] > 1.02, 60.0, 30.0) + np.where(at[2] < -0.5, -29.0, 0.0)
    norm *= np.where(np.abs(at[2]) < 0.5, 1 + 0.01 * at[1], 1.0)
    counts = norm * scattering(300.0)
    path = tmp_path / "warm/transform.nxs"
    path.parent.mkdir()
    data, errors = estimator.intensity(counts, norm)
    nexus.write_volume(path, nexus.Volume(GRID, CELL, counts, norm, data, errors), "S(Q)")
    outputs = run({"warm": path}, tmp_path / "stack", number=1)
    (row,) = rows(outputs.table)
    assert [abs(float(row[x])) for x in "hkl"] == [0, 1, 0]


def test_a_stack_without_any_whole_reflection_is_still_a_stack(
    volumes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = {name: volumes[name] for name in ("warm", "cold")}
    outputs = run(two, tmp_path, box=(1.6, 1.6, 1.6))
    assert "no integer hkl of the hottest scan" in capsys.readouterr().out
    assert rows(outputs.table) == []
    with h5py.File(outputs.stack) as file:
        assert file["entry/transform/data"].shape == (2, *GRID.array_shape)
        assert file["entry/reflections/intensity"].shape == (0, 2)


# ------------------------------------------------------------------------ bad input


def test_another_grid_is_refused_by_name(volumes: dict[str, Path], tmp_path: Path) -> None:
    member = nexus.read_volume(volumes["cold"])
    grid = Grid(GRID.first, GRID.step * 1.1, GRID.shape)
    other = tmp_path / "other.nxs"
    nexus.write_volume(
        other,
        nexus.Volume(grid, CELL, member.counts, member.norm, member.data, member.errors),
        "S(Q)",
    )
    with pytest.raises(HklflowError, match=r"other\.nxs has another grid .* than .*warm"):
        run({"warm": volumes["warm"], "cold": other}, tmp_path / "out")
    assert not (tmp_path / "out/stack.nxs").exists()


def test_a_volume_that_is_not_merged_is_refused(volumes: dict[str, Path], tmp_path: Path) -> None:
    member = nexus.read_volume(volumes["cold"])
    path = tmp_path / "rotation.nxs"
    nexus.write_volume(path, nexus.Volume(GRID, CELL, member.counts, member.norm), "counts")
    with pytest.raises(HklflowError, match=r"rotation\.nxs has no data, data_errors"):
        run({"warm": volumes["warm"], "cold": path}, tmp_path / "out")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"temperatures": [300.0, None]}, "scan cold has no temperature"),
        ({"temperatures": [300.0]}, "2 volumes, 2 scans and 1 temperatures"),
        ({"reflections": [(1, 0, 0), (2.5, 0, 0)]}, r"around \(2.5, 0.0, 0.0\), with a shell"),
        ({"reflections": [(0.575, 0, 0)], "box": (0.01, 0.01, 0.01)}, "no voxel centre"),
    ],
)
def test_what_cannot_be_stacked_is_refused(
    volumes: dict[str, Path], tmp_path: Path, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(HklflowError, match=message):
        run({name: volumes[name] for name in ("warm", "cold")}, tmp_path, **params)


def test_reflections_pass_through_a_command_line() -> None:
    from hklflow.experiment.config import flags

    given = stack.Params(scans=["a"], temperatures=[1.0], reflections=[(1, 0, 0), (-0.5, 0, 1)])
    words = flags(given).split()
    at = words.index("--reflections") + 1
    numbers = words[at : at + 6]
    again = stack.Params.model_validate(
        {"scans": ["a"], "temperatures": [1.0], "reflections": numbers}
    )
    assert again == given


def test_a_correction_of_only_some_scans_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The change of S(Q) with temperature contains it, and nothing in the numbers shows it."""
    have = {
        "warm": ["solid angle", "absorption by shape", "background without the crystal"],
        "middle": ["solid angle", "background without the crystal"],
        "cold": ["solid angle"],
    }
    members = {
        name: write_member(
            tmp_path / name / "transform.nxs", TEMPERATURES[name], 7, notes={"corrected for": own}
        )
        for name, own in have.items()
    }
    found = run(members, tmp_path / "stack", reflections=[(1, 0, 0)])
    told = capsys.readouterr().out
    assert "warning: only warm is corrected for absorption by shape: the change of S(Q)" in told
    sentence = "all scans but cold are corrected for background without the crystal"
    assert f"warning: {sentence}" in told
    assert "solid angle" not in told
    with h5py.File(found.stack) as opened:
        assert sentence in opened["entry/notes/notes"].asstr()[()]


def test_a_stack_along_a_field_names_the_field(
    volumes: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    along = stage.Along(name="field", symbol="B", unit="T")
    fields = [6.0, 0.0, 3.0, 9.0]
    done = run(volumes, tmp_path / "a/b", temperatures=fields, along=along)
    assert taken.accepted(done.stack, done.table, axis="field") == set()
    assert "4 volumes from 0 T to 9 T" in capsys.readouterr().out
    table = rows(done.table)
    assert sorted({float(row["field"]) for row in table}) == sorted(fields)
    with h5py.File(done.stack) as file:
        data = file["entry/transform"]
        assert list(data.attrs["axes"]) == ["field", "Ql", "Qk", "Qh"]
        assert data.attrs["field_indices"] == 0
        assert data["field"].attrs["units"] == "T"
        assert data["field"][()].tolist() == sorted(fields)
        assert "temperature" not in data
        assert list(file["entry/reflections"].attrs["axes"]) == ["reflection", "field"]
    opened = hklflow.open(done.stack)
    assert repr(opened).startswith("<stack of 4 volumes at 0, 3, 6, 9 T: ")
    assert opened.box(h=(0, 1), k=(0, 1), l=(0, 1)).sizes["field"] == 4
    with open_stack(done.stack, [], np.nan) as source:
        assert source.axis.label == "field (T)"
        assert source.volumes[0].facts["field in T"] == 0.0
        with pytest.raises(HklflowError, match="a stack along field, and nxs_analysis_tools reads"):
            write_temperatures(source, tmp_path / "out")
        write_xtec(source, tmp_path / "x.nxs")
    with h5py.File(tmp_path / "x.nxs") as file:
        assert file["entry/data/Te"].attrs["long_name"] == "field (T)"
