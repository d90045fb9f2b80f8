"""A file made of a diagnostic product says so, inside and in its name, in every format there is."""

import json
from pathlib import Path
from typing import Any

import h5py
import pyFAI
import pytest

from hklflow import nexus
from hklflow.cli.slice import _NUMBERS
from hklflow.experiment.steps import STEPS
from hklflow.export.formats import FORMATS
from hklflow.stage import tags
from tests.truth.exported import BETWEEN, write_factors, write_series, write_volume
from tests.truth.reflections import Truth, rotation

from .conftest import Hklflow

RECORD: dict[str, Any] = {
    "stage": "transform",
    "stage_version": 1,
    "version": "0",
    "started": "2026-01-01T00:00:00+00:00",
    "inputs": {},
    "diagnostic": "made of straw",
}


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A diagnostic product of each kind that `hklflow export` reads."""
    folder = tmp_path_factory.mktemp("diagnostic")
    made = {
        "volume": write_volume(folder / "transform.nxs", BETWEEN),
        "hkl": folder / "transform.nxs",
        "stack": write_series(folder, (20.0, 300.0), BETWEEN),
        "reflections": write_factors(folder / "sf.nxs", False),
    }
    for path in set(made.values()):
        nexus.write_provenance(path, [RECORD])
    return made


def inside(path: Path) -> bytes:
    """All bytes of the files with the name, attributes of HDF5 files among them."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    if path.suffix == ".npy":
        files.append(path.with_suffix(".json"))
    return b"".join(file.read_bytes() for file in files)


@pytest.mark.parametrize("name", FORMATS)
def test_every_export_says_so(
    hklflow: Hklflow, tmp_path: Path, products: dict[str, Path], name: str
) -> None:
    form = FORMATS[name]
    source = products[form.source]
    ending = (*form.suffixes, "")[0]
    done = hklflow("export", name, source, tmp_path / f"s{ending}")
    assert done.code == 2
    assert f"is diagnostic (made of straw), and the name s{ending} does not say so" in done.err
    assert f"write it to {tmp_path / f's_diagnostic{ending}'}" in done.err
    assert not list(tmp_path.iterdir())
    target = tmp_path / f"s_diagnostic{ending}"
    done = hklflow("export", name, source, target)
    assert done.code == 0, done.err
    if form.suffixes == ():  # a folder
        assert all("diagnostic" in file.name for file in target.iterdir())
    content = inside(target)
    codes = " ".join(str(code) for code in b"made of straw").encode()  # text in VTK files
    assert b"made of straw" in content or codes in content


@pytest.mark.parametrize("ending", [".png", *_NUMBERS])
def test_every_slice_says_so(
    hklflow: Hklflow, tmp_path: Path, products: dict[str, Path], ending: str
) -> None:
    words = ("slice", products["volume"], "--plane", "h k 1.26", "-o")
    done = hklflow(*words, tmp_path / f"x{ending}")
    assert done.code == 2
    assert "does not say so" in done.err
    done = hklflow(*words, tmp_path / f"Diagnostic{ending}")
    assert done.code == 0, done.err
    assert ending in tags.NAME_ONLY or b"made of straw" in inside(tmp_path / f"Diagnostic{ending}")
    if ending == ".nxs":
        with h5py.File(tmp_path / "Diagnostic.nxs") as file:
            assert file["entry"].attrs["hklflow_quality"] == "diagnostic"


def test_a_plot_and_a_model_say_so(
    hklflow: Hklflow, tmp_path: Path, products: dict[str, Path]
) -> None:
    assert hklflow("show", products["volume"], "-o", tmp_path / "x.png").code == 2
    assert hklflow("show", products["volume"], "-o", tmp_path / "diagnostic.png").code == 0
    assert b"made of straw" in (tmp_path / "diagnostic.png").read_bytes()
    written = Truth(group="P 21 21 21", rotations=[rotation()], d_min=1.2).write(tmp_path / "t")
    data = json.loads(written.orientation.read_text())
    written.orientation.write_text(json.dumps(data | {"provenance": [RECORD]}))
    for program in ("dials", "xds", "nxrefine"):
        words = ("model", "export", written.orientation, "--to", program, "-o")
        done = hklflow(*words, tmp_path / f"{program}.expt")
        assert done.code == 2
        assert "does not say so" in done.err
        done = hklflow(*words, tmp_path / f"{program}_diagnostic.expt")
        assert done.code == 0, done.err


def test_a_reduced_product_takes_any_name(hklflow: Hklflow, tmp_path: Path) -> None:
    volume = write_volume(tmp_path / "v.nxs", BETWEEN)
    nexus.write_provenance(volume, [{k: v for k, v in RECORD.items() if k != "diagnostic"}])
    assert hklflow("export", "npy", volume, tmp_path / "s.npy").code == 0
    assert hklflow("slice", volume, "--plane", "h k 1.26", "-o", tmp_path / "s.nxs").code == 0


def test_every_product_of_the_workflow_has_a_place_for_the_tag() -> None:
    suffixes = {
        Path(output.name or "x.html").suffix for step in STEPS for output in step.writes.values()
    }
    assert suffixes - {"", ".nxs", ".json"} <= set(tags.WRITERS)


def test_pyfai_reads_a_tagged_geometry(tmp_path: Path) -> None:
    path = tmp_path / "x.poni"
    path.write_text("Distance: 0.1\nPoni1: 0.01\nPoni2: 0.02\nRot1: 0\nRot2: 0\nRot3: 0\n"
                    "PixelSize1: 1e-4\nPixelSize2: 1e-4\nWavelength: 1e-10\n")  # fmt: skip
    before = pyFAI.load(str(path))
    tags.write(path, ["made of\nstraw"])
    assert path.read_text().endswith("\n# diagnostic: made of straw\n")
    after = pyFAI.load(str(path))
    assert (after.dist, after.poni1, after.wavelength) == (before.dist, before.poni1, 1e-10)
