"""`hklflow calibration propose --level`: parts of the detector from rings and scans together."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml

from hklflow import geometry, nexus
from hklflow.cli.calibration import build
from hklflow.images import pixel_groups

from .conftest import Done, Hklflow, write_raw
from .test_calibration_several import (
    BOXES,
    PIXEL,
    SHAPE,
    SHIFTS,
    WAVELENGTH,
    _reduced,
    image,
)

STATE = {
    "detector": "simulated", "serial": "1", "shape": list(SHAPE), "pixel_size": [PIXEL, PIXEL],
    "material": "Si", "thickness": 1e-3, "distance": 0.08, "two_theta": 0, "stage": [0, 0, 0],
    "energy": 12398.419843320026 / WAVELENGTH, "threshold": 10000, "binning": 1,
}  # fmt: skip
BY = ("--author", "A. Person")


class Used(NamedTuple):
    """Stands for the version that the scans were reduced with."""

    number: int
    name: str
    file: Path

    def artefact(self, name: str) -> Path:
        return self.file


@pytest.fixture
def propose(hklflow: Hklflow, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`propose` for a store, with two scans that were reduced with its version 0."""
    config = yaml.safe_load((folder / "config/config.yaml").read_text())
    entry = {"store": "calibration", "state": STATE, "polarization": 0.5}
    config["calibrations"] = {"near": entry}
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    write_raw(folder / "raw/a.h5")
    with (folder / "config/scans.tsv").open("a") as table:
        table.write("quartz\ta\t\t\tr1\traw/a.h5\tphi=0:0.1\tnear\t\t1\n")
    assert hklflow("calibration", "init", *BY, "--directory", folder).code == 0

    def products(_: object, scan: str) -> tuple[Used, Path, dict[str, dict[str, Path]]]:
        at = folder / scan
        if not at.is_dir():
            at.mkdir(parents=True)
            start = _reduced(at, np.random.default_rng(len(scan)))
            start["beam"]["polarization"] = 0.5
            (at / "start.json").write_text(json.dumps(start))
        names = ("scan.nxs", "peaks.nxs", "mask.nxs")
        number = 1 if scan.endswith("old") else 0
        used = Used(number, f"v_{number:04d}", at / "start.json")
        return used, at / "orientation.json", {name: {"r1": at / name} for name in names}

    monkeypatch.setattr(build, "bragg_products", products)

    def run(name: str, *words: str | Path) -> tuple[Done, dict[str, Any]]:
        done = hklflow("calibration", "propose", name, *words, *BY, "--directory", folder)
        if done.code:
            assert not list(folder.glob(f"calibration/geometry/*/candidates/{name}"))
            return done, {}
        (at,) = folder.glob(f"calibration/geometry/*/candidates/{name}/01")
        return done, {
            "page": (at / "report.html").read_text(),
            **{x: json.loads((at / f"{x}.json").read_text()) for x in ("geometry", "record")},
        }

    return run


def sigmas(made: dict[str, Any]) -> np.ndarray:
    rows = made["geometry"]["module_metrics"]["modules"]
    return np.array([[row["radial_sigma_um"], row["tangential_sigma_um"]] for row in rows])


def test_an_image_and_several_scans_are_one_fit(
    propose: Callable[..., Any], tmp_path: Path
) -> None:
    picture = image(tmp_path / "a.tif", 0.08, (73.0, 73.0), SHIFTS)
    start = ("--set", "distance=0.08", "--set", "beam_centre=[73,73]")
    _, one = propose("one", "--bragg", "quartz/a")
    _, two = propose("two", "--bragg", "quartz/a", "quartz/bb")
    done, both = propose(
        "both", "--level", "module", "--image", picture, *start, "--bragg", "quartz/a", "quartz/bb"
    )
    assert "gates passed" in done.out
    for made in (one, two, both):
        modules = geometry.detector_from_dict(made["geometry"]["detector"]).modules
        assert modules is not None
        assert np.abs(modules.shift - SHIFTS).max() < 0.04
    assert np.median(sigmas(one) / sigmas(two)) == pytest.approx(2**0.5, rel=0.2)
    assert np.all(sigmas(both)[:, 0] < 0.9 * sigmas(two)[:, 0])
    # The geometry is of the image; all files are on record.
    assert geometry.detector_from_dict(both["geometry"]["detector"]).distance == pytest.approx(
        0.08, abs=1e-4
    )
    assert both["geometry"]["source"].startswith("modules of 1 powder images: ")
    read = [Path(item["path"]).name for item in both["record"]["inputs"]]
    assert read.count("orientation.json") == read.count("peaks.nxs") == 2
    assert read[0] == "a.tif"


def test_levels_by_command(
    propose: Callable[..., Any], hklflow: Hklflow, folder: Path, tmp_path: Path
) -> None:
    _, chips = propose("chips", "--level", "chip", "--chips", "1", "2", "--bragg", "quartz/a")
    modules = geometry.detector_from_dict(chips["geometry"]["detector"]).modules
    assert modules is not None
    assert len(modules) == 8
    assert np.sqrt(np.mean((modules.shift - np.repeat(SHIFTS, 2, axis=0)) ** 2)) < 0.03
    # Three parts in place of quadrants: two modules move together.
    labels = np.zeros(SHAPE, int)
    for (s0, s1, f0, f1), label in zip(BOXES, (1, 1, 2, 3), strict=True):
        labels[s0:s1, f0:f1] = label
    nexus.write_groups(tmp_path / "parts.nxs", pixel_groups.by_image(labels))
    words = ("--level", "quadrant", "--groups", tmp_path / "parts.nxs", "--bragg", "quartz/a")
    _, parts = propose("parts", *words)
    assert parts["geometry"]["module_metrics"]["levels"] == {"quadrant": 3}
    # Both levels in turn, from the same peaks, until nothing moves.
    done, rounds = propose(
        "rounds", "--level", "chip", "module", "--chips", "1", "2", "--bragg", "quartz/a"
    )
    metrics = rounds["geometry"]["module_metrics"]
    assert metrics["levels"] == {"module": 4, "chip": 8}
    assert "round 1: module" in done.out
    assert metrics["rounds"][-1]["largest_change_px"] <= metrics["tolerance_px"] == 0.02
    assert "settled" in [gate["name"] for gate in rounds["record"]["gates"]]
    assert "<h2>Rounds</h2>" in rounds["page"]
    same = geometry.detector_from_dict(rounds["geometry"]["detector"]).modules
    assert same is not None
    assert same.shift == pytest.approx(modules.shift, abs=0.01)
    less = ("--set", "rounds=1", "--set", "tolerance=1e-9", *BY, "--directory", folder)
    done = hklflow("calibration", "iterate", "rounds", *less)
    assert done.code == 0, done.err
    assert "candidate rounds/02" in done.out


def test_levels_that_cannot_be_fitted_are_refused(
    propose: Callable[..., Any], tmp_path: Path
) -> None:
    bragg, picture = ("--bragg", "quartz/a"), ("--image", tmp_path / "a.tif")
    for words, sentence in (
        (("--level", "detector", *bragg), "--level detector is for --image alone"),
        (("--level", "module", "--poni", "x.poni"), "--level module is for --image and --bragg"),
        (("--rounds", "3", *picture), "--rounds is for --level quadrant, module, sensor or chip"),
        (("--chips", "1", "2", *bragg), "chips is for the level chip"),
        (("--level", "chip", *bragg), "chips of a module of 70 x 70 pixels are not known"),
        (("--level", "chip", "--chips", "0", "2", *bragg), "must be 1 or more"),
        (("--level", "module", "sensor", *bragg), "have the same 4 parts in this detector"),
        (("--level", "module", "--sensors", "1", "2", *bragg), "only 2 modules have"),
        (("--level", "detector", "module", *bragg), "the level detector needs powder images"),
        (("--tolerance", "-1", *bragg), "tolerance: Input should be greater than 0"),
        (("--bragg", "quartz/a", "quartz/a"), "--bragg quartz/a is given twice"),
        (("--bragg", "quartz/a", "quartz/old"), "quartz/a with v_0000, quartz/old with v_0001"),
        ((*bragg, "--poni", "x.poni"), "or --image and --bragg together"),
        ((*bragg, *picture, "--offset", "0"), "--offset and --arm are for the images of a series"),
    ):
        done, _ = propose("wrong", *words)
        assert done.code == 2, words
        assert sentence in done.err, (words, done.err)
        assert len(done.err.strip().splitlines()) == 1
