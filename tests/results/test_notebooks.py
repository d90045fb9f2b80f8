"""The notebooks of docs/notebooks run in a folder with the volumes of a finished demo."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hklflow
from hklflow import nexus
from hklflow.base.errors import HklflowError
from hklflow.geometry.grid import Grid
from hklflow.stages import symmetrise
from tests.other_programs import other_program
from tests.truth.cuts import hkl_of
from tests.truth.orientations import write_orientation

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
CELL = np.array([4.8, 4.8, 7.15, 90.0, 90.0, 120.0])
GRID = Grid.symmetric((2.6, 2.6, 3.0), (0.1, 0.1, 0.2))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the demo's configuration and tables, and symmetrised volumes of a rod."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(REPOSITORY / "demo" / "config", folder / "config")
    hkl, rng = hkl_of(GRID), np.random.default_rng(1)
    # Rods at (n + 1/3, m + 1/3) and (n - 1/3, m - 1/3), with the symmetry of 6/mmm.
    h, k = hkl[..., 0], hkl[..., 1]
    waves = np.mean([np.cos(2 * np.pi * i) for i in (h, k, h + k)], axis=0)
    for scan, rod in (("300K", 0.5), ("200K", 1.0), ("100K", 3.0)):
        results = folder / "results" / "hexa" / scan
        results.mkdir(parents=True)
        counts = rng.poisson(10 * (2 + rod * (1 - waves)))
        with nexus.VolumeWriter(
            results / "transform.nxs", GRID, CELL, "S(Q)", np.uint32, False
        ) as writer:
            writer.write(
                0, counts=counts.astype(np.uint32), norm=np.full(counts.shape, 10, np.float32)
            )
            writer.note({})
        symmetrise.main(
            inputs=symmetrise.Inputs(
                volumes=[results / "transform.nxs"],
                orientation=write_orientation(results / "orientation.json", group="P 6/m m m"),
            ),
            outputs=symmetrise.Outputs(
                symmetrised=results / "symm_transform.nxs",
                picture=results / "symm.png",
                metrics=results / "symm.json",
            ),
            params=symmetrise.Params(),
        )
    pair = {"data": np.float32, "data_errors": np.float32}
    path = folder / "results" / "hexa" / "100K" / "delta_pdf_masked_transform.nxs"
    with nexus.GridWriter(path, GRID, CELL, "ΔPDF", pair, group="pdf", direct=True) as pdf:
        pdf.write(0, **{name: np.ones(GRID.array_shape, np.float32) for name in pair})
        pdf.note({"kind": "delta"})
    return folder


@pytest.mark.slow
def test_the_lines_of_the_page_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, as a reader types them."""
    page = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
    monkeypatch.chdir(finished)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        if ".rotation(" not in block:  # tests/view/test_frames.py has frames
            exec(block, names)
    assert names["integral"] > 5 * names["sigma"] > 0
    assert names["change"].S.mean() > 0
    assert {path.name for path in finished.glob("*.png")} == {"rod.png", "hk0.png", "hk05.png"}


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(finished: Path, notebook: Path) -> None:
    warnings = ["-W", "error"]
    if notebook.stem == "nxs_analysis_tools":  # no dependency; its own warnings are not ours
        other_program("nxs_analysis_tools")
        warnings = []
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") for cell in cells)
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    done = subprocess.run(
        [sys.executable, *warnings, "-c", code],
        cwd=finished,
        env=os.environ | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (finished / f"{notebook.stem}.pdf").stat().st_size > 5000


@pytest.mark.slow
def test_an_experiment_opens_its_scans(finished: Path) -> None:
    experiment = hklflow.open(finished)
    assert experiment.scans == {("hexa", f"{t}K"): float(t) for t in (300, 200, 100)}
    stack = experiment.stack("hexa")
    assert stack.temperature.tolist() == [100, 200, 300]
    box = stack.box(h=(0.3, 0.4), k=(0.3, 0.4), l=(-1, 1))
    assert np.all(np.diff(box.S) < 0)
    orientation = experiment.open("hexa", "100K", "orientation.json")
    assert orientation.space_group == "P 6/m m m"
    assert experiment.open("hexa", "100K", "transform.nxs").kind == "transform"
    with pytest.raises(HklflowError, match="there is no scan '5K' of 'hexa'"):
        experiment.open("hexa", "5K")
    with pytest.raises(HklflowError, match=r"no scan of 'hexa' with a temperature has none\.nxs"):
        experiment.stack("hexa", "none.nxs")
