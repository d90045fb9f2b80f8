"""Stage `order_parameters` on small volumes of a satellite that appears at a known temperature."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.cli.show import show
from hklflow.geometry.grid import Grid
from hklflow.stages import order_parameters
from hklflow.transform import estimator
from tests import taken
from tests.truth.orientations import write_orientation

GRID = Grid.symmetric([1.2, 1.2, 0.8], [0.05, 0.05, 0.1])
CELL = np.array([4.8, 4.8, 7.2, 90.0, 90.0, 90.0])
T_C = 162.0
TEMPERATURES = [*np.arange(40.0, 300.0, 20.0), None]
WIDTH = 0.03
SCALE = {80.0: 0.6}  # a scan with less beam
COLUMNS = ("scan", "scale", "scale_sigma", "debye_waller")
EXPANSIONS = [
    {
        "parent": "280K",
        "sentences": ["the cell expands"],
        "T_c (K)": {"value": 90.0, "sigma": 2.0, "68 %": [88, 92], "95 %": [86, 94]},
    }
]


def scattering(temperature: float) -> np.ndarray:
    """S (l, k, h): reflections at (1/2, 0, 0) and mates from T_c down, at (1/2, 1/2, 0) always."""
    h, k, m = np.meshgrid(*(GRID.axis(i) for i in (0, 1, 2)), indexing="ij")
    s = np.full(h.shape, 0.5)
    for x, y in np.ndindex(5, 5):
        place = (x - 2) / 2, (y - 2) / 2
        if place[0] % 1 == 0.5 and place[1] % 1 == 0.5:
            height = 5.0
        elif place[0] % 1 == place[1] % 1:
            height = 60.0 if any(place) else 0.0
        else:
            height = 40.0 * max(0.0, 1 - temperature / T_C)
        away = (h - place[0]) ** 2 + (k - place[1]) ** 2 + (m / 3) ** 2
        s += height * np.exp(-0.5 * away / WIDTH**2)
    return s.transpose(2, 1, 0)


def place(temperature: float) -> float:
    """First component of a vector that locks in at 1/3 at 140 K."""
    return 1 / 3 - 2e-4 * max(0.0, temperature - 140.0)


def moving(temperature: float) -> np.ndarray:
    """S (l, k, h): reflections at (±q, 0, 0) twice as strong as at (0, ±q, 0), up to 260 K."""
    h, k, m = np.meshgrid(*(GRID.axis(i) for i in (0, 1, 2)), indexing="ij")
    s = np.full(h.shape, 0.5)
    height, q = 60.0 * max(0.0, 1 - temperature / 260), place(temperature)
    for x, y, sign in np.ndindex(5, 5, 2):
        shift = q * (2 * sign - 1)
        for part, dx, dy in ((1.0, shift, 0.0), (0.5, 0.0, shift)):
            away = (h - x + 2 - dx) ** 2 + (k - y + 2 - dy) ** 2 + (m / 3) ** 2
            s += part * height * np.exp(-0.5 * away / WIDTH**2)
    return s.transpose(2, 1, 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write(tmp_path_factory.mktemp("order"), scattering, [0.5, 0.0, 0.0])


def write(folder: Path, model: Callable[[float], np.ndarray], found: list[float]) -> dict[str, Any]:
    """Write the volumes of a series; the gates find a vector below 100 K."""
    rng = np.random.default_rng(3)
    volumes, orientations, rows = [], [], []
    for temperature in TEMPERATURES:
        t = 300.0 if temperature is None else temperature
        name, scale = f"{t:g}K", SCALE.get(t, 1.0)
        norm = np.full(GRID.array_shape, 20.0)
        counts = rng.poisson(norm * scale * model(t)).astype(float)
        volume = nexus.Volume(GRID, CELL, counts, norm, *estimator.intensity(counts, norm), {})
        nexus.write_volume(folder / f"{name}.nxs", volume, "S(Q)")
        volumes.append(folder / f"{name}.nxs")
        vector = [{"vector": found, "peaks": 20, "arms": 2}] if t < 100 else []
        orientations.append(
            write_orientation(
                folder / f"{name}.json", None, np.diag(2 * np.pi / CELL[:3]), "P 4/m m m", GRID,
                scan=name, parent="280K", temperature=temperature, figures={"offsets": vector},
            )
        )  # fmt: skip
        rows.append((name, scale, 0.005, 0.0))
    with (folder / "series.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([COLUMNS, *rows])
    (folder / "findings.json").write_text(
        json.dumps({"sentences": ["a jumps"], "expansions": EXPANSIONS})
    )
    return {
        "volumes": volumes,
        "orientations": orientations,
        "series": folder / "series.tsv",
        "findings": folder / "findings.json",
    }


def run(made: dict[str, Any], folder: Path, **params: Any) -> order_parameters.Outputs:
    outputs = order_parameters.Outputs(
        table=folder / "order.tsv",
        picture=folder / "order.png",
        orders=folder / "order.json",
    )
    stage.run(
        order_parameters.main,
        inputs=order_parameters.Inputs(**made),
        outputs=outputs,
        params=order_parameters.Params(box=(0.12, 0.12, 0.35), **params),
        threads=1,
    )
    return outputs


@pytest.fixture(scope="module")
def outputs(
    made: dict[str, Any],
) -> order_parameters.Outputs:
    return run(made, made["series"].parent, vectors=[(0.5, 0.5, 0.0)])


def test_the_transition_of_the_satellite_is_found_and_the_static_one_is_not_one(
    outputs: order_parameters.Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(outputs.orders.read_text())
    static, appearing = told["vectors"]
    assert (static["vector"], static["from"]) == ([0.5, 0.5, 0.0], "configuration")
    assert static["answer"] == "none"
    assert (appearing["vector"], appearing["from"]) == ([0.5, 0.0, 0.0], "gates of 40K")
    assert appearing["reflections"] == 12  # of a square with 5 x 5 half indices, with whole boxes
    low, high = appearing["T_c (K)"]["95 %"]
    assert low < T_C < high
    assert high - low < 8
    exponent = appearing["exponent of the intensity"]
    assert abs(exponent["value"] - 1) < 3 * exponent["sigma"] < 0.5
    assert appearing["order"] == "continuous"
    texts = [row["sentence"] for row in told["findings"]]
    assert texts[-1] == "a jumps"
    assert "the cell expands" in texts
    (compared,) = [text for text in texts if text.startswith("T_c of the cell")]
    assert "and of the reflections at (1/2, 0, 0)" in compared
    assert "σ: two transitions, or one is wrong" in compared
    show(Path(told["findings"][1]["command"].removeprefix("hklflow show ")))
    assert "vector: [0.5, 0.0, 0.0]" in capsys.readouterr().out
    assert "reflections at (1/2, 0, 0) appear on cooling; continuous" in told["sentences"][1]
    assert "reflections at (1/2, 1/2, 0) show no transition" in told["sentences"][0]
    # Symmetry fixes q: nothing is measured of its position, so that no sentence is on it.
    assert not [text for text in told["sentences"] if "fixes" in text or "q is" in text]
    assert appearing["position"]["moves"] is False
    assert appearing["position"]["limit of the displacement (95 %)"] == 0
    assert appearing["arms"]["equal"] is True


def test_intensities_are_those_of_the_model_without_the_scale(
    outputs: order_parameters.Outputs,
) -> None:
    with outputs.table.open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if float(row["k"]) == 0]
    assert [float(row["temperature"]) for row in rows] == TEMPERATURES[:-1]
    # The integral of a Gaussian with the widths of the reflection.
    whole = 40 * (2 * np.pi) ** 1.5 * WIDTH**3 * 3
    for row in rows:
        truth = whole * max(0.0, 1 - float(row["temperature"]) / T_C)
        assert abs(float(row["intensity"]) - truth) < 4 * float(row["intensity_sigma"])


def test_boxes_follow_a_vector_that_moves_and_locks_in(tmp_path: Path) -> None:
    told = run(write(tmp_path, moving, [0.3333, 0.0, 0.0]), tmp_path)
    (vector,) = json.loads(told.orders.read_text())["vectors"]
    position = vector["position"]
    assert position["moves"] is True
    low, high = position["constant below (K)"]["95 %"]
    assert low < 140 < high
    np.testing.assert_allclose(position["locks in at"], [1 / 3, 0, 0], atol=1e-9)
    assert vector["arms"]["equal"] is False
    order = np.argsort(vector["arms"]["shares"])
    np.testing.assert_allclose(np.array(vector["arms"]["shares"])[order], [1 / 3, 2 / 3], atol=0.02)
    with told.table.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(TEMPERATURES) - 1
    # The mean of both arms.
    whole = 0.75 * 60 * (2 * np.pi) ** 1.5 * WIDTH**3 * 3
    seen = 0
    for row in rows:
        t = float(row["temperature"])
        off = float(row["intensity"]) - whole * max(0.0, 1 - t / 260)
        assert abs(off) < 4 * float(row["intensity_sigma"]) + 0.02 * whole
        if row["q_h"] != "nan":
            seen += 1
            assert abs(float(row["q_h"]) - place(t)) < 4 * float(row["q_h_sigma"])
            assert float(row["q_k_sigma"]) == float(row["q_k"]) == 0.0
    assert seen >= 10
    text = told.orders.read_text()
    assert "it locks in at (1/3, 0, 0) below" in text
    assert "their intensities differ" in text


def test_too_few_temperatures_are_said(made: dict[str, Any], tmp_path: Path) -> None:
    few = made | {key: made[key][:4] for key in ("volumes", "orientations")}
    told = json.loads(run(few, tmp_path).orders.read_text())
    assert told["vectors"] == []
    assert "has 4 temperatures, and 5 are needed" in told["sentences"][0]


@pytest.mark.slow
def test_a_scale_that_is_not_known_is_said(made: dict[str, Any], tmp_path: Path) -> None:
    table = made["series"].read_text().splitlines()
    table[2] = "\t".join((table[2].split("\t")[0], "nan", "nan", "nan"))
    path = tmp_path / "series.tsv"
    path.write_text("\n".join(table) + "\n")
    sentences = json.loads(run(made | {"series": path}, tmp_path).orders.read_text())["sentences"]
    (words,) = [x for x in sentences if x.startswith("the scale of ")]
    assert words.startswith(f"the scale of {table[2].split()[0]} to the parent 280K is not known")


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"scan\tscale\n40K\n"])
def test_a_damaged_table_is_a_sentence(made: dict[str, Any], tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "series.tsv"
    path.write_bytes(damage)
    with pytest.raises(HklflowError, match="is not a table of a temperature series"):
        run(made | {"series": path}, tmp_path / "out")


def test_one_volume_for_each_orientation(made: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(HklflowError, match="13 volumes and 14 orientations"):
        run(made | {"volumes": made["volumes"][:-1]}, tmp_path)
    assert not any(tmp_path.iterdir())


FIELDS = np.arange(13) * 0.75  # T
B_C = 4.1


@pytest.fixture(scope="module")
def along_field(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same satellite, that appears above a field; all scans are at 5 K."""
    folder = tmp_path_factory.mktemp("field")
    rng = np.random.default_rng(8)
    volumes, orientations, rows = [], [], []
    for field in FIELDS:
        name = f"{field:g}T"
        norm = np.full(GRID.array_shape, 20.0)
        # Its intensity at the largest field is that of 40 K.
        like = T_C - (T_C - 40) * max(0.0, (field - B_C) / (FIELDS[-1] - B_C))
        counts = rng.poisson(norm * scattering(like)).astype(float)
        volume = nexus.Volume(GRID, CELL, counts, norm, *estimator.intensity(counts, norm), {})
        nexus.write_volume(folder / f"{name}.nxs", volume, "S(Q)")
        volumes.append(folder / f"{name}.nxs")
        orientations.append(
            write_orientation(
                folder / f"{name}.json", None, np.diag(2 * np.pi / CELL[:3]), "P 4/m m m", GRID,
                scan=name, parent="0T", temperature=5.0, figures={},
            )
        )  # fmt: skip
        rows.append((name, 1.0, 0.005, 0.0))
    with (folder / "series.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([COLUMNS, *rows])
    cell = {"parent": "0T", "sentences": ["the cell changes"], "B_c (T)": None}
    (folder / "findings.json").write_text(json.dumps({"sentences": [], "expansions": [cell]}))
    return {
        "volumes": volumes,
        "orientations": orientations,
        "series": folder / "series.tsv",
        "findings": folder / "findings.json",
    }


def field_axis(errors: float = 0.0) -> stage.Along:
    names = {f"{field:g}T": float(field) for field in FIELDS}
    sigma = dict.fromkeys(names, errors) if errors else {}
    return stage.Along(name="field", symbol="B", unit="T", values=names, errors=sigma)


def test_along_a_field_everything_names_the_field(
    along_field: dict[str, Any], tmp_path: Path
) -> None:
    vectors = [(0.5, 0.0, 0.0)]
    done = run(along_field, tmp_path, vectors=vectors, along=field_axis())
    record = json.loads(done.orders.read_text())
    (fit,) = record["vectors"]
    found = fit["B_c (T)"]
    assert abs(found["value"] - B_C) < 3 * found["sigma"]
    assert found["sigma"] < 0.3
    assert fit["appears"] == "above"
    assert fit["mean intensity above B_c"][0] > 5 * fit["mean intensity below B_c"][0]
    assert fit["fitted between (T)"] == [0.0, 9.0]
    text = "\n".join(record["sentences"])
    assert "at B_c = 4." in text
    assert "T reflections at (1/2, 0, 0) appear with increasing field" in text
    assert "I ∝ (B − B_c)^n" in text
    for word in (" K", "cooling", "temperature", "T_c"):
        assert word not in text.replace("temperature_series", "")
        assert word not in json.dumps([fit, record["sentences"]], ensure_ascii=False)
    with done.table.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [float(row["field"]) for row in rows] == pytest.approx(FIELDS.tolist())
    assert taken.accepted(done.table, axis="field") == set()
    assert "temperature" not in rows[0]


def test_errors_of_the_field_widen_its_interval(
    along_field: dict[str, Any], tmp_path: Path
) -> None:
    widths = []
    for errors in (0.0, 0.6):
        along = field_axis(errors)
        folder = tmp_path / f"{errors}"
        folder.mkdir()
        done = run(along_field, folder, vectors=[(0.5, 0.0, 0.0)], along=along)
        (fit,) = json.loads(done.orders.read_text())["vectors"]
        widths.append(fit["B_c (T)"]["sigma"])
    assert widths[1] > 1.5 * widths[0]


def test_a_scan_without_a_field_is_refused(along_field: dict[str, Any], tmp_path: Path) -> None:
    along = field_axis().model_copy(update={"values": {"0T": 0.0}})
    with pytest.raises(HklflowError, match=r"scan 0\.75T has no value along field"):
        run(along_field, tmp_path, along=along)


def test_a_temperature_with_its_own_error_uses_it(made: dict[str, Any], tmp_path: Path) -> None:
    along = stage.Along(errors={f"{t:g}K": 8.0 for t in TEMPERATURES if t is not None})
    widths = []
    for name, given in (("all", along), ("none", stage.Along())):
        folder = tmp_path / name
        folder.mkdir()
        done = run(made, folder, along=given)
        fit = json.loads(done.orders.read_text())["vectors"][0]
        widths.append(fit["T_c (K)"]["sigma"])
    assert widths[0] > 1.5 * widths[1]
