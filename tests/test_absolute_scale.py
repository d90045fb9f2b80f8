"""Stage `absolute_scale` on files that are made from the truth of a world."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.bragg.structure_factors import Crystal
from hklflow.geometry.grid import Grid
from hklflow.nexus import structure_factors as files
from hklflow.stages import absolute_scale
from tests.truth.quantitative import World
from tests.truth.quantitative_intensities import bragg_scan, of

SCALE = 0.37


def make(folder: Path, w: World, name: str, scale: float, seed: int) -> tuple[Path, Path]:
    """Write volume and scaled reflections of a scan whose S is scale × w.scale electron units."""
    (folder / name).mkdir()
    volume, scaled = folder / name / "transform.nxs", folder / name / "scaled.nxs"
    cell, c = w.crystal.cell, w.crystal
    crystal = Crystal("x", name, name, c.space_group, cell, (0.0,) * 6, c.wavelength, 300.0)
    files.write_scaled(scaled, bragg_scan(w, seed, scale=scale), ["r1", "r2", "r3"], crystal, {})
    grid = Grid.symmetric([3.4, 3.4, 3.4], [0.2] * 3)
    at = np.stack(np.meshgrid(*(grid.axis(i) for i in (2, 1, 0)), indexing="ij"), -1)[..., ::-1]
    S = w.scale * scale * (c.S(at) + c.compton(np.linalg.norm(at @ c.B.T, axis=-1)))
    norm = np.full(S.shape, 100 / S.mean())
    counts = np.random.default_rng(seed).poisson(norm * S).astype(float)
    errors = np.sqrt(norm * S) / norm
    nexus.write_volume(
        volume, nexus.Volume(grid, np.array(cell), counts, norm, counts / norm, errors), "S(Q)"
    )
    return volume, scaled


def run(folder: Path, inputs: dict[str, Any], **params: Any) -> dict[str, Any]:
    outputs = absolute_scale.Outputs(picture=folder / "a.png", metrics=folder / "a.json")
    absolute_scale.main(
        inputs=absolute_scale.Inputs(**inputs),
        outputs=outputs,
        params=absolute_scale.Params(**params),
    )
    assert outputs.picture.stat().st_size > 10_000
    metrics: dict[str, Any] = stage.read_json(outputs.metrics)
    return metrics


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    folder, w = tmp_path_factory.mktemp("scale"), of("needle", 11)
    for name, scale, seed in (("one", 1.0, 1), ("two", SCALE, 2)):
        make(folder, w, name, scale, seed)
    (folder / "x.cif").write_text(w.crystal.cif("x"))
    return folder, w


def inputs_of(folder: Path, name: str) -> dict[str, Any]:
    return {"volume": folder / name / "transform.nxs", "scaled": folder / name / "scaled.nxs"}


def test_scan_and_reference_have_their_scales(made: tuple[Path, World]) -> None:
    folder, w = made
    first = run(
        folder / "one", inputs_of(folder, "one"), cif=folder / "x.cif", formula="Cu S O9 H10"
    )
    assert first["method"] == "Bragg intensities"
    assert first["factor"] * w.scale == pytest.approx(1, abs=0.02)
    assert not first["warnings"]
    high = first["methods"]["high angles"]
    assert high["factor"] is None
    assert "measure to larger |Q|" in high["refusal"]
    assert any(high["refusal"] in note for note in first["notes"])

    names = ("transform.nxs", "scaled.nxs", "a.json")
    reference = [folder / "one" / name for name in names]
    inputs = inputs_of(folder, "two") | {"reference_files": reference}
    second = run(folder / "two", inputs, reference="one")
    assert second["method"] == "reference scan"
    assert second["factor"] * w.scale * SCALE == pytest.approx(1, abs=0.02)
    ratio = second["methods"]["reference scan"]["ratio of S in common voxels"]
    assert ratio == pytest.approx(SCALE, rel=0.01)

    without = {"factor": None, "sigma": None}
    reference[2] = folder / "refused.json"
    reference[2].write_text(json.dumps(without))
    third = run(folder / "two", inputs | {"reference_files": reference}, reference="one")
    assert third["factor"] is None
    assert "the reference scan has no absolute scale itself" in third["notes"][0]


def test_another_formula_is_reported(made: tuple[Path, World]) -> None:
    folder, _ = made
    found = run(folder / "one", inputs_of(folder, "one"), cif=folder / "x.cif", formula="Cu O")
    assert "differ in H, S" in found["warnings"][0]


def test_a_structure_with_another_cell_is_an_error(made: tuple[Path, World]) -> None:
    folder, _ = made
    other = folder / "other.cif"
    other.write_text(of("sphere", 11).crystal.cif("x"))
    with pytest.raises(HklflowError, match="give the structure in the setting of the scan"):
        run(folder / "one", inputs_of(folder, "one"), cif=other)


def test_the_volume_is_that_of_the_cell_of_the_scan(made: tuple[Path, World]) -> None:
    """A cell that is 2 % too long would change the factor by 6 % by its volume."""
    folder, w = made
    text = w.crystal.cif("x")
    for name, x in zip("abc", w.crystal.cell, strict=False):
        text = text.replace(f"_cell_length_{name} {x:g}", f"_cell_length_{name} {1.02 * x:.4f}")
    other = folder / "longer.cif"
    other.write_text(text)
    found = run(folder / "one", inputs_of(folder, "one"), cif=other)
    assert "differs by 1.9% from the cell of the scan" in found["warnings"][0]
    assert found["factor"] * w.scale == pytest.approx(1, abs=0.03)


def test_nothing_that_supports_a_scale_is_an_error(made: tuple[Path, World]) -> None:
    folder, _ = made
    with pytest.raises(HklflowError, match="nothing gives an absolute scale"):
        run(folder / "one", inputs_of(folder, "one"))


def test_the_master_file_has_the_factor(tmp_path: Path) -> None:
    from hklflow.nexus.master import note_scale

    metrics = {"factor": 2.5, "sigma": 0.1, "method": "high angles", "meaning": "S × factor"}
    with h5py.File(tmp_path / "m.nxs", "w") as file:
        note_scale(file, metrics)
        assert file["absolute_scale/factor"][()] == 2.5
        assert file["absolute_scale/factor_errors"][()] == 0.1
        assert json.loads(file["absolute_scale/findings/data"][()]) == metrics
        note_scale(file.create_group("off"), metrics | {"factor": None, "sigma": None})
        assert "factor" not in file["off/absolute_scale"]
