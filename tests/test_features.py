"""Stage `features` on small volumes with rods whose correlation length is known."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import ndtr

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.cli.show import show
from hklflow.geometry.grid import Grid
from hklflow.geometry.symmetry import space_group
from hklflow.stages import features
from hklflow.transform import estimator
from tests import taken
from tests.truth.orientations import write_orientation

GRID = Grid.symmetric([1.4, 1.4, 1.4], [0.05, 0.05, 0.1])
CELL = np.array([4.8, 4.8, 7.2, 90.0, 90.0, 90.0])
WIDTH = np.array([0.03, 0.03, 0.05])  # σ of the resolution, r.l.u.
XI = {100.0: 40.0, 200.0: 15.0, 300.0: 8.0}  # Å
COLUMNS = ("scan", "scale", "scale_sigma", "debye_waller")
RODS = {"shape": "rod", "point": (0.5, 0.5, 0.0), "direction": (0.0, 0.0, 1.0)}
NONE = {"shape": "point", "point": (0.2, 0.2, 0.5)}


def smeared(axis: np.ndarray, step: float, sigma: float, xi: float) -> np.ndarray:
    """A chain of correlations exp(-r/ξ) at half-integer h, with resolution and voxel, by sums."""
    x = CELL[0] / xi
    fine = np.linspace(-0.4, 0.4, 4001)
    seen = (ndtr((fine + step / 2) / sigma) - ndtr((fine - step / 2) / sigma)) / step
    values = np.sinh(x) / (np.cosh(x) - np.cos(2 * np.pi * (axis[:, None] + fine - 0.5)))
    return (values * seen).sum(axis=1) * (fine[1] - fine[0])


def scattering(temperature: float, rods: float = 1.0) -> np.ndarray:
    """S (l, k, h): rods along c* times a factor, a background, and Bragg reflections."""
    h, k, m = (GRID.axis(i) for i in range(3))
    rod = smeared(h, 0.05, WIDTH[0], XI[temperature])
    s = 0.4 + 0.1 * np.ones((len(m), len(k), len(h))) * (1 + 0.3 * h)
    s += 0.03 * rods * (1 + 0.2 * np.cos(np.pi * m / 3))[:, None, None] * rod[None, :, None] * rod
    for place in np.ndindex(3, 3, 3):
        if place != (1, 1, 1):
            s += 0.1 * peak(np.array(place) - 1.0, WIDTH)
    return s


def peak(place: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """A Gaussian (l, k, h) of integral 1 in r.l.u.³, averaged over the voxels."""
    lines = []
    for i in range(3):
        x, d = GRID.axis(i), GRID.step[i]
        lines.append(np.diff(ndtr((np.append(x - d / 2, x[-1] + d / 2) - place[i]) / sigma[i])) / d)
    return np.einsum("h,k,l->lkh", *lines)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(5)
    volumes, orientations, rows = [], [], []
    for temperature in XI:
        name = f"{temperature:g}K"
        write(folder / f"{name}.nxs", scattering(temperature), rng)
        volumes.append(folder / f"{name}.nxs")
        orientations.append(
            write_orientation(
                folder / f"{name}.json", None, np.diag(2 * np.pi / CELL[:3]), "P 4/m m m", GRID,
                scan=name, parent="300K", temperature=temperature,
            )
        )  # fmt: skip
        rows.append((name, 1.0, 0.005, 0.0))
    with (folder / "series.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([COLUMNS, *rows])
    return {"volumes": volumes, "orientations": orientations, "series": folder / "series.tsv"}


def write(path: Path, s: np.ndarray, rng: np.random.Generator) -> None:
    """Write a symmetrised volume of 25 counts for S = 1 in each voxel."""
    operations = space_group("P 4/m m m").laue_operations
    norm = np.full(GRID.array_shape, 25.0)
    counts = rng.poisson(norm * s).astype(float)
    # Symmetrised: equivalent voxels have the sum of their counts.
    both = [np.zeros(norm.shape), np.zeros(norm.shape)]
    for w in operations:
        order = [int(np.argmax(np.abs(row))) for row in w]
        for total, array in zip(both, (counts, norm), strict=True):
            image = array.transpose(2, 1, 0).transpose(order)
            signs = [slice(None, None, int(row[i])) for row, i in zip(w, order, strict=True)]
            total += image[tuple(signs)].transpose(2, 1, 0)
    counts, norm = both
    notes = {"operations": operations.tolist()}
    # As `symmetrise` does: the error is that of the counts of all distinct equivalents.
    data = counts / norm
    errors = np.sqrt(data / (25.0 * distinct_equivalents(operations)))
    nexus.write_volume(path, nexus.Volume(GRID, CELL, counts, norm, data, errors, notes), "S(Q)")


def distinct_equivalents(operations: np.ndarray) -> np.ndarray:
    """Number (l, k, h) of different voxels among the images of each voxel."""
    axes = [GRID.axis(i) for i in range(3)]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).transpose(2, 1, 0, 3)
    keys = np.stack([np.round(hkl @ w.T @ [1.0, 2**0.5, 3**0.5], 6) for w in operations])
    keys.sort(axis=0)
    return 1 + (np.diff(keys, axis=0) > 1e-5).sum(axis=0)


def run(made: dict[str, Any], folder: Path, **params: Any) -> features.Outputs:
    outputs = features.Outputs(
        table=folder / "features.tsv",
        picture=folder / "features.png",
        results=folder / "features.json",
    )
    stage.run(
        features.main,
        inputs=features.Inputs(**made),
        outputs=outputs,
        params=features.Params(relative_error=0.0, copies=6, **params),
        threads=1,
    )
    return outputs


@pytest.fixture(scope="module")
def outputs(made: dict[str, Any]) -> features.Outputs:
    return run(made, made["series"].parent, define={"rods": RODS, "nothing": NONE})


def test_correlation_lengths_of_the_rods_are_those_of_the_model(
    outputs: features.Outputs,
) -> None:
    assert taken.accepted(outputs.table) == set()
    rods, nothing = json.loads(outputs.results.read_text())["features"]
    assert len(rods["scans"]) == 3
    for row in rods["scans"]:
        truth = XI[row["temperature (K)"]]
        ((axis, xi),) = row["correlation lengths (Å)"].items()
        assert axis == "a*, b*"  # equal by the fourfold axis at (1/2, 1/2)
        low, high = xi["95 %"]
        assert low < truth < high
        assert high - low < 0.4 * truth
        assert xi["determined"] == "value"
        assert row["line shape"] == "chains"
        sigma = np.array(row["resolution at Q = 0, sigma (r.l.u.)"])
        np.testing.assert_allclose(sigma, WIDTH, rtol=0.1)
        # The mean of the chains over a cell is 1; the factor along the rod between 1.1 and 1.2.
        assert abs(row["intensity"] / 0.03 - 1.15) < 0.06 + 3 * row["intensity sigma"] / 0.03
    assert [row["seen"] for row in nothing["scans"]] == [False] * 3


def test_sentences_are_what_the_fits_carry(
    outputs: features.Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(outputs.results.read_text())
    first, *_, last = told["sentences"]
    assert first.startswith("rods, rods along [0 0 1] at (1/2, 1/2, 0) sharpen on cooling: ξ along")
    assert "between 300 and 100 K" in first
    assert last.startswith(
        "nothing, points at (0.2000, 0.2000, 1/2) are not seen between 300 and 100 K"
    )
    assert not any("intensity grows" in x for x in told["sentences"])
    show(Path(told["findings"][0]["command"].removeprefix("hklflow show ")))
    assert "name: rods" in capsys.readouterr().out
    with outputs.table.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["scan"] for row in rows] == ["100K", "200K", "300K"] * 2
    # What is not seen has an upper limit, and no other value.
    for row in rows[3:]:
        assert float(row.pop("intensity_limit")) > 0
        assert [x for x in row.values() if x] == ["300K", "nothing", row["scan"], row["scan"][:-1],
                                                  "False"]  # fmt: skip


@pytest.mark.parametrize("rods", [0.0, 0.02])
def test_what_a_scan_does_not_see_has_the_intensity_of_the_known_shape(
    made: dict[str, Any], tmp_path: Path, rods: float
) -> None:
    """With a width of its own, the noise of the background would be a feature of any size."""
    write(tmp_path / "300K.nxs", scattering(200.0, rods), np.random.default_rng(8))
    volumes = [*made["volumes"][:2], tmp_path / "300K.nxs"]
    outputs = run(made | {"volumes": volumes}, tmp_path, define={"rods": RODS})
    results = json.loads(outputs.results.read_text())
    first, second, third = results["features"][0]["scans"]
    assert [x["seen"] for x in (first, second, third)] == [True, True, False]
    assert third["intensity has the line shape of"] == "200K"
    truth = 0.03 * 1.15 * rods
    assert abs(third["intensity"] - truth) < 3 * third["intensity sigma"]
    # The same counts, and hardly a feature on them.
    assert third["intensity sigma"] < 2 * second["intensity sigma"]
    limit = third["intensity, upper limit (95 %)"]
    assert truth < limit < 0.2 * second["intensity"]
    assert any(
        "are not seen at 300 K: the mean intensity is below" in x for x in results["sentences"]
    )


def test_points_as_sharp_as_narrow_reflections_have_no_finite_length(
    made: dict[str, Any], tmp_path: Path
) -> None:
    """Reflections and points have a width of 0.35 voxels, all of it resolution."""
    s = 0.5 * np.ones(GRID.array_shape)
    for place in np.ndindex(3, 3, 3):
        if place != (1, 1, 1):
            s += 0.1 * peak(np.array(place) - 1.0, 0.35 * GRID.step)
    for place in np.ndindex(2, 2, 2):
        s += 0.02 * peak(np.array(place) - 0.5, 0.35 * GRID.step)
    write(tmp_path / "100K.nxs", s, np.random.default_rng(4))
    one = {"volumes": [tmp_path / "100K.nxs"], "orientations": made["orientations"][:1]}
    points = {"shape": "point", "point": (0.5, 0.5, 0.5)}
    results = json.loads(run(made | one, tmp_path, define={"R": points}).results.read_text())
    (row,) = results["features"][0]["scans"]
    sigma = np.array(row["resolution at Q = 0, sigma (r.l.u.)"])
    np.testing.assert_allclose(sigma, 0.35 * GRID.step, rtol=0.05)
    lengths = row["correlation lengths (Å)"].values()
    assert [x["determined"] for x in lengths] == ["longer", "longer"]
    assert row["intensity"] == pytest.approx(0.02, rel=0.1)


def test_a_scale_that_is_not_known_is_said(made: dict[str, Any], tmp_path: Path) -> None:
    table = made["series"].read_text()
    row = next(line for line in table.splitlines() if line.startswith("200K"))
    series = tmp_path / "series.tsv"
    series.write_text(table.replace(row, "200K\tnan\tnan\tnan"))
    outputs = run(made | {"series": series}, tmp_path, define={"nothing": NONE})
    *_, last = json.loads(outputs.results.read_text())["sentences"]
    assert last == (
        "the scale of 200K to the parent 300K is not known: 1 with an error of 10% is used for "
        "the intensities of features"
    )


def test_volumes_that_are_not_symmetrised_are_refused(made: dict[str, Any], tmp_path: Path) -> None:
    volume = nexus.read_volume(made["volumes"][0])
    path = tmp_path / "100K.nxs"
    plain = nexus.Volume(*(getattr(volume, x) for x in ("grid", "cell", "counts", "norm")),
                         *estimator.intensity(volume.counts, volume.norm), {})  # fmt: skip
    nexus.write_volume(path, plain, "S(Q)")
    with pytest.raises(HklflowError, match="is not symmetrised"):
        run(
            made | {"volumes": [path, *made["volumes"][1:]]},
            tmp_path / "out",
            define={"rods": RODS},
        )


def test_one_volume_for_each_orientation(made: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(HklflowError, match="2 volumes and 3 orientations"):
        run(made | {"volumes": made["volumes"][:-1]}, tmp_path, define={"rods": RODS})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"direction": None}, "a rod needs a `direction`"),
        ({"shape": "point"}, "a point needs no `direction`"),
        ({"shape": "sheet", "along": True}, "has no `along`"),
    ],
)
def test_impossible_definitions_are_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        features.Definition(**(RODS | changed))


@pytest.mark.parametrize(
    "name", ["", "a\nb", "a\tb", "..", "../x", "a/b", "$M$", "x" * 61, " x", "-x", "a{b}"]
)
def test_names_that_sentences_and_tables_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=r"the name .* of a feature has 1 to 60 letters"):
        features.Settings(define={name: features.Definition(**RODS)})


def test_names_of_features() -> None:
    names = ["rods", "M-point (hk0)", "Γ'", "rod_1", "x" * 60]
    settings = features.Settings(define={name: features.Definition(**RODS) for name in names})
    assert list(settings.define) == names


def test_a_window_without_voxels_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    tiny = {"shape": "point", "point": (0.5, 0.5, 0.5), "width": 1e-9}
    with pytest.raises(HklflowError, match=r"define: x: with `width` = 1e-09 r.l.u. a window has"):
        run(made, tmp_path, define={"x": tiny})
    assert not any(tmp_path.iterdir())


def test_a_point_at_a_reflection_is_said(made: dict[str, Any], tmp_path: Path) -> None:
    at_node = {"shape": "point", "point": (1, 0, 0)}
    other = {"shape": "point", "point": (0.5, 0.5, 0.5)}
    outputs = run(made, tmp_path, define={"node": at_node, "R": other})
    sentences = json.loads(outputs.results.read_text())["sentences"]
    (said,) = (text for text in sentences if "is at a reflection" in text)
    assert said.startswith("node of parent 300K is at a reflection: ")


def test_rods_are_found_without_help_and_followed(made: dict[str, Any], tmp_path: Path) -> None:
    outputs = run(made, tmp_path, find=True)
    results = json.loads(outputs.results.read_text())
    rod = results["found"][0]
    assert rod["definition"]["shape"] == "rod"
    assert rod["definition"]["point"] == [0.5, 0.5, 0.0]
    assert rod["definition"]["direction"] == [0, 0, 1]
    assert rod["equivalents"] == 1
    assert rod["significance (sigma)"] > 10
    # What is listed can be pasted.
    features.Definition(**rod["definition"])
    pasted = "rod_1: {shape: rod, point: [0.5, 0.5, 0], direction: [0, 0, 1], along: false, width"
    assert rod["to paste in features: define"].startswith(pasted)
    assert len(results["found"]) == 1
    (followed,) = results["features"]
    assert [row["seen"] for row in followed["scans"]] == [True] * 3
    for row in followed["scans"]:
        ((_, xi),) = row["correlation lengths (Å)"].items()
        low, high = xi["95 %"]
        assert low < XI[row["temperature (K)"]] < high
    # What changes is first: the page shows the first sentences.
    first, *others = results["sentences"]
    assert first.startswith("rod_1, rods along [0 0 1] at (1/2, 1/2, 0) sharpen on cooling")
    (found,) = [x for x in others if x.startswith("found without help at ")]
    assert "rods along [0 0 1] at (1/2, 1/2, 0), without equivalents" in found


def test_a_feature_that_is_found_does_not_repeat_a_defined_one(
    made: dict[str, Any], tmp_path: Path
) -> None:
    moved = RODS | {"point": (-0.5, 1.5, 0.7)}
    outputs = run(made, tmp_path, define={"mine": moved}, find=True)
    results = json.loads(outputs.results.read_text())
    assert results["found"] == []
    assert [one["name"] for one in results["features"]] == ["mine"]
    none = "no diffuse feature is found without help in the volumes of parent 300K"
    assert none in results["sentences"]
