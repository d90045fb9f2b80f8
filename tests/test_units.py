"""No result depends on the unit of S: a monitor may count 10⁷ or 10¹² photons per frame, or 10⁻⁷.

The same counts are measured with other monitors. S and its errors change by the unit; choices,
flags, ratios and the words of sentences do not.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow import stage
from tests import test_cluster, test_features, test_order_parameters, test_stack_pdf
from tests.truth import trajectories
from tests.units import UNITS, differences, in_unit

features_of = test_features.made
orders_of = test_order_parameters.made


def moved(given: dict[str, Any], folder: Path, unit: float) -> dict[str, Any]:
    """Return the inputs of a series with its volumes in another unit."""
    return given | {"volumes": [in_unit(path, folder, unit) for path in given["volumes"]]}


def made_in(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_features_are_found_and_followed(features_of: dict[str, Any], tmp_path: Path) -> None:
    """In single precision, squares of weights 1/σ² were infinite, and nothing was found."""
    settings: dict[str, Any] = {"find": True, "define": {"nothing": test_features.NONE}}
    plain = test_features.run(features_of, made_in(tmp_path / "plain"), **settings)
    expected = stage.read_json(plain.results)
    assert len(expected["found"]) == 1
    for unit in UNITS:
        folder = made_in(tmp_path / f"{unit}")
        other = test_features.run(moved(features_of, folder, unit), folder, **settings)
        assert differences(expected, stage.read_json(other.results), unit) == []


def test_orders_of_satellites(orders_of: dict[str, Any], tmp_path: Path) -> None:
    """Errors of a position were those of a matrix whose small values were cut off, by the unit."""
    plain = test_order_parameters.run(orders_of, made_in(tmp_path / "plain"))
    for unit in UNITS:
        folder = made_in(tmp_path / f"{unit}")
        other = test_order_parameters.run(moved(orders_of, folder, unit), folder)
        both = (stage.read_json(x.orders) for x in (plain, other))
        assert differences(*both, unit) == []


def test_changes_of_the_pair_distribution(tmp_path: Path) -> None:
    made = test_stack_pdf.write_series(made_in(tmp_path / "plain"))
    plain = stage.read_json(test_stack_pdf.run_series(tmp_path / "plain", made).results)
    assert len(plain["changes"]) > 1
    for unit in UNITS:
        folder = made_in(tmp_path / f"{unit}")
        (folder / "stack").mkdir()
        table = tmp_path / "plain/stack/scales.tsv"
        (folder / "stack/scales.tsv").write_bytes(table.read_bytes())
        other = {name: in_unit(path, folder / name, unit) for name, path in made.items()}
        scaled = stage.read_json(test_stack_pdf.run_series(folder, other).results)
        assert differences(plain, scaled, unit) == []
        # A value of 10⁻¹³ is not written with thirteen zeros.
        assert "0.00000" not in " ".join(scaled["sentences"])


@pytest.mark.slow
def test_clusters_of_voxels(tmp_path: Path) -> None:
    world = trajectories.world(2, sigmas=5.0, n=49, n_t=10, symmetric=True)
    paths = test_cluster.write(world, made_in(tmp_path / "plain"), trajectories.MMM)
    plain = test_cluster.run(paths, world.temperatures, tmp_path / "plain")
    for unit in UNITS:
        folder = made_in(tmp_path / f"{unit}")
        other = [in_unit(path, folder, unit) for path in paths]
        scaled = test_cluster.run(other, world.temperatures, folder)
        both = (stage.read_json(x.metrics) for x in (plain, scaled))
        assert differences(*both, unit) == []


def test_a_difference_is_found() -> None:
    plain = {"a": 1.0, "b": "seen at 3.1 ± 0.2", "c": [True, None]}
    unit = UNITS[0]
    assert (
        differences(plain, {"a": unit, "b": "seen at (3.1 ± 0.2) × 10⁻¹²", "c": [True, None]}, unit)
        == []
    )
    assert len(differences(plain, {"a": 1.1, "b": "not seen", "c": [False, np.nan]}, unit)) == 4
