"""Stage unmeasured_background: simulated worlds, from raw files to the transform."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.experiment.config import load
from hklflow.experiment.jobs import Plan
from hklflow.images.ice import Ice
from hklflow.images.powder_rings import Rings
from hklflow.images.ring_search import Ring
from hklflow.stage.unmeasured_sums import Task
from hklflow.stages import transform, unmeasured_background
from tests.truth.quantitative_background import Air, Surroundings, Walls
from tests.truth.quantitative_catalogue import world
from tests.truth.unmeasured import prepare, ring_error, run, shells

SMALL = {"shape": (120, 128), "span": 120.0}


def transformed(folder: Path, background: Path | None) -> nexus.Volume:
    outputs = [folder / f"{kind}.nxs" for kind in ("all", "masked")]
    stage.run(
        transform.main,
        inputs=transform.Inputs(
            scan=folder / "r1/scan.nxs",
            mask=folder / "r1/mask.nxs",
            scale=folder / "r1/scale.nxs",
            background=background,
            frame_mask=folder / "r1/frame_mask.nxs",
            orientation=folder / "orientation.json",
        ),
        outputs=transform.Outputs(transform=outputs[0], masked_transform=outputs[1]),
        params=transform.Params(rotation="r1"),
        threads=1,
    )
    return nexus.read_volume(outputs[0])


@pytest.mark.slow
def test_without_surroundings_the_transform_is_unchanged(tmp_path: Path) -> None:
    """Nothing that is not background is subtracted, and the interval contains 0."""
    w = world("organic", 11, surroundings=Surroundings(), **SMALL)
    found = run(w, tmp_path, prepare(w, tmp_path))
    assert found.metrics["subtracted"] == []
    assert found.metrics["powder rings"] == []
    assert np.nanmax(shells(found)["low"]) == 0
    volumes = [transformed(tmp_path, p) for p in (None, tmp_path / "unmeasured_background.nxs")]
    np.testing.assert_array_equal(volumes[0].counts, volumes[1].counts)


@pytest.mark.slow
def test_rings_and_air_of_a_furnace(tmp_path: Path) -> None:
    """Textured rings are subtracted, and the isotropic rest is inside its interval."""
    around = Surroundings(walls=Walls(1.5, "Be", texture=0.4), air=Air(0.4))
    w = world("organic", 11, surroundings=around, **SMALL)
    names = prepare(w, tmp_path)
    found = run(w, tmp_path, names, rings="subtract")
    assert found.metrics["subtracted"] == ["powder rings"]
    assert any("rings are subtracted, with errors" in text for text in found.metrics["warnings"])
    assert len(found.metrics["powder rings"]) >= 2
    assert 0.6 < ring_error(found)["share found"] < 1.2
    s = shells(found)
    known = np.isfinite(s["high"])
    assert np.all(s["low"][known] <= s["true"][known] * 1.02)
    assert np.all(s["true"][known] <= s["high"][known])
    volume = transformed(tmp_path, tmp_path / "unmeasured_background.nxs")
    with h5py.File(tmp_path / "all.nxs") as file:
        subtracted = file["entry/transform/background"][()]
    photons = volume.counts + subtracted
    assert subtracted.sum() > 0
    np.testing.assert_allclose(photons, np.rint(photons), atol=1e-3)
    # Masked rings lose their pixels instead.
    masked = run(w, tmp_path, names)
    assert np.isnan(masked.found["powder rings"]).any()
    lost = transformed(tmp_path, tmp_path / "unmeasured_background.nxs")
    assert lost.norm.sum() < volume.norm.sum()


@pytest.mark.slow
def test_a_rotation_that_tells_nothing_says_so(tmp_path: Path) -> None:
    """P 1, a short rotation, detector on one side: nothing of the crystal is subtracted."""
    w = world("undetermined", 3, (60, 64), span=30.0, surroundings=Surroundings())
    found = run(w, tmp_path, prepare(w, tmp_path))
    assert found.metrics["subtracted"] == []
    assert not found.metrics["determined"] or (
        found.metrics["significance of the anisotropic part"] < 5
    )


def test_detectors_at_different_places_are_refused(tmp_path: Path) -> None:
    w = world("diamond cell", 3, (60, 64), span=3.0)
    names = prepare(w, tmp_path)
    orientation = stage.read_orientation(tmp_path / "orientation.json")
    first = orientation.rotation("r1")
    moved = replace(first.detector, origin=first.detector.origin * 1.2)
    task = Task(orientation, [], names, [first, replace(first, detector=moved)], [], [])
    with pytest.raises(HklflowError, match="the detector of r2 is at another place"):
        unmeasured_background._require_one_detector(task)


def test_jobs_follow_the_configuration(tmp_path: Path) -> None:
    """Only `subtract` gives the transform a background; `runs` excludes `unmeasured`."""
    w = world("organic", 3, (60, 64), span=3.0)
    prepare(w, tmp_path)
    text = (tmp_path / "config/config.yaml").read_text()
    for value, has_job, subtracted in (
        ("null", False, False),
        ("report", True, False),
        ("subtract", True, True),
    ):
        settings = yaml.safe_load(text + f"background: {{unmeasured: {value}}}\n")
        jobs = Plan(load(settings, tmp_path)).jobs
        assert any(job.rule == "unmeasured_background" for job in jobs) == has_job
        reads = [path for job in jobs if job.rule == "transform" for path in job.inputs]
        assert any("unmeasured_background.nxs" in path for path in reads) == subtracted
    runs = "{air: {raw: raw/empty.nxs, seen_through: not}}"
    settings = yaml.safe_load(text + f"background: {{unmeasured: report, runs: {runs}}}\n")
    with pytest.raises(HklflowError, match="`unmeasured` is for scans without `runs`"):
        load(settings, tmp_path)


def test_an_anisotropic_part_with_a_large_error_is_reported() -> None:
    """Rms over the pixels over the level: 0.3 of 10 is too much, 0.03 is not."""
    level = np.array([9.0, np.nan, 10.0, 11.0])
    for sigma, n in ((0.3, 1), (0.03, 0), (0.0, 0)):
        error = unmeasured_background._relative_error(np.full(50, sigma**2), level)
        assert error == pytest.approx(sigma / 10)
        warnings = unmeasured_background._uncertain(error)
        assert len(warnings) == n
        assert all("error of 3.0% of the level" in text for text in warnings)


def test_rings_that_change_and_ice_are_reported() -> None:
    ring = Ring(2.72, 0.1, 3.0, 0.2)
    rings = Rings([ring], [], [(2.6, 2.8)], *np.zeros((4, 1)))
    assert unmeasured_background._unsteady(rings) == []
    (text,) = unmeasured_background._unsteady(rings._replace(changing=[ring]))
    assert "|Q| = 2.72 1/Å are not equally strong" in text
    (text,) = unmeasured_background._unsteady(rings._replace(frozen=Ice([0, 0.02, 0.1, 0.1], [])))
    assert "0%, 2%, 10%, 10% of the level in 4 consecutive parts" in text
