"""Stage absorption: from the shape of a world's crystal to frame scale, transform and Bragg."""

import json
from pathlib import Path

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.bragg.reflections import UNFIT
from hklflow.images.frame_scale import FrameScale
from hklflow.stages import find_peaks, integrate, refine_scale
from hklflow.transform.direction import Refined
from tests.truth.quantitative_background import Surroundings
from tests.truth.quantitative_catalogue import world
from tests.truth.quantitative_scans import Made, made, shape_by_faces, traced, transformed, use

ENDS = {"peaks": ".nxs", "statistics": ".nxs", "metrics": ".json", "statistics_metrics": ".json"}


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> Made:
    found = made(world("plate", 11, (60, 64), span=12.0), tmp_path_factory.mktemp("plate"))
    w = found.world
    metrics = traced(found, shape=shape_by_faces(found), formula=w.crystal.formula, formula_units=2)
    assert metrics["attenuation (1/mm)"]["r1"] == pytest.approx(w.crystal.mu, rel=0.02)
    assert metrics["warnings"] == []
    traced(found, shape=shape_by_faces(found), mu=w.absorber.mu, nodes=65)
    use(found)
    return found


def test_the_transmission_is_the_traced(plate: Made) -> None:
    """Faces by hkl through the orientation, and by vectors of the holder, in both rotations."""
    w = plate.world
    for r, name in enumerate(plate.names):
        curve, direction = nexus.read_absorption(plate.folder / "absorption.nxs", name)
        nodes = [np.linspace(0, n, 8) for n in w.shape]
        off = [
            direction.at(z, *nodes) + np.log(curve[z] / w.nodes(r, "sample")[z])
            for z in range(0, 12, 3)
        ]
        assert np.sqrt(np.mean(np.square(off))) < 0.003


def test_the_norm_has_the_transmission_once(plate: Made) -> None:
    w, file = plate.world, plate.folder / "absorption.nxs"
    volume = transformed(plate, file)
    assert "absorption by shape" in volume.notes["corrected for"]
    norm = sum(
        float((w.norm * w.transmission(0, z)).sum() * m)
        for z, m in enumerate(nexus.read_scale(plate.folder / "r1/scale.nxs").monitor)
    )
    without = sum(
        float(w.norm.sum() * m)
        for m in nexus.read_scale(plate.folder / "r1/scale.nxs").monitor
    )  # fmt: skip
    # Against the transform without a shape, all other factors are equal.
    scale = nexus.read_scale(plate.folder / "r1/scale.nxs")
    bare = FrameScale(
        scale.monitor, scale.attenuation, scale.signal, scale.transmission, 1.0, 1.0, "none"
    )
    nexus.write_scale(plate.folder / "r1/scale.nxs", bare, np.zeros(len(scale.monitor)))
    try:
        plain = transformed(plate, None)
        with pytest.raises(HklflowError, match=r"was not made with .*; run frame_scale again"):
            transformed(plate, file)
    finally:
        nexus.write_scale(plate.folder / "r1/scale.nxs", scale, np.zeros(len(scale.monitor)))
    assert volume.norm.sum() / plain.norm.sum() == pytest.approx(norm / without, rel=3e-3)
    with pytest.raises(HklflowError, match="but the input `absorption` is missing"):
        transformed(plate, None)


def test_a_refined_scale_multiplies_the_transmission(plate: Made) -> None:
    file, refined = plate.folder / "absorption.nxs", plate.folder / "refined.nxs"
    _, direction = nexus.read_absorption(file, "r1")
    n = plate.world.scans[0].n_frames
    factor = Refined(np.full(n, 2.0), np.zeros(n), direction)
    nexus.write_refined(refined, {"r1": factor})
    once, twice = (transformed(plate, file, path) for path in (None, refined))
    assert 0.5 < twice.norm.sum() / once.norm.sum() / 2 < 2
    done = twice.notes["corrected for"]
    assert {"absorption by shape", "scale from repeated measurements"} <= set(done)


@pytest.mark.slow
def test_bragg_intensities_of_a_plate_are_right(tmp_path: Path) -> None:
    """Without the shape they follow ln T with a slope of 1, with it they are those of the CIF.

    The scatter that is left is of 1° frames, not of the transmission: counting gives 0.3 %.
    """
    plan = {"span": 70.0, "settings": (0,), "start": (0,), "surroundings": Surroundings()}
    found = made(world("plate", 11, (120, 128), **plan), tmp_path)
    w, own = found.world, tmp_path / "r1"
    names = find_peaks.Outputs.model_fields
    stage.run(
        find_peaks.main,
        inputs=find_peaks.Inputs(scan=own / "scan.nxs", mask=own / "mask.nxs"),
        outputs=find_peaks.Outputs(**{n: own / f"{n}{ENDS.get(n, '.png')}" for n in names}),
        params=find_peaks.Params(),
        threads=1,
    )
    traced(found, shape=shape_by_faces(found), mu=w.absorber.mu)
    hkl, power = w.crystal.structure_factors(1.02 * float(w.q.max()))
    true = dict(zip(map(tuple, hkl.tolist()), power.tolist(), strict=True))
    scatter, slope = [], []
    for absorbed in (None, tmp_path / "absorption.nxs"):
        if absorbed:
            use(found)
        stage.run(
            integrate.main,
            inputs=integrate.Inputs(
                **{n: own / f"{n}.nxs" for n in ("scan", "mask", "scale", "peaks")},
                absorption=absorbed,
                orientation=tmp_path / "orientation.json",
            ),
            outputs=integrate.Outputs(
                reflections=own / "b.nxs", picture=own / "b.png", metrics=own / "b.json"
            ),
            params=integrate.Params(rotation="r1"),
            threads=1,
        )
        table = nexus.read_reflections(own / "b.nxs")
        intensity, sigma = table.intensity("sum")
        strong = np.isfinite(intensity) & (intensity > 30 * sigma) & ~table.has(UNFIT)
        table, intensity = table.select(strong), intensity[strong]
        assert len(table) > 100
        log = np.log(intensity / [true[tuple(h)] for h in table.hkl.tolist()])
        place = (table.frame, table.slow, table.fast)
        T = [w.transmission(0, int(z))[int(i), int(j)] for z, i, j in zip(*place, strict=True)]
        slope.append(np.polyfit(np.log(T), log, 1)[0])
        scatter.append(1.4826 * np.median(np.abs(log - np.median(log))))
    assert slope == pytest.approx([1, 0], abs=0.05)
    assert scatter[0] > 0.1
    assert scatter[1] < 0.02


@pytest.mark.slow
def test_refine_scale_finds_little_after_the_shape(tmp_path: Path) -> None:
    """Its start has the transmission by shape: next to nothing is left that needs a direction."""
    found = made(world("needle", 3, span=50.0), tmp_path)
    body = found.world.absorber.body
    values, axes = np.linalg.eigh(body.quadrics[0])
    traced(
        found,
        shape={
            "kind": "cylinder",
            "radii": (values[1:] ** -0.5).tolist(),
            "length": 2 * float(body.planes[0, 3]),
            "first": {"holder": axes[:, 0].tolist()},
            "second": {"holder": axes[:, 1].tolist()},
        },
        mu=found.world.absorber.mu,
    )
    directed = []
    for absorbed in (None, tmp_path / "absorption.nxs"):
        if absorbed:
            use(found)
        metrics = tmp_path / "refined_scale.json"
        stage.run(
            refine_scale.main,
            inputs=refine_scale.Inputs(
                scans=found.each("scan.nxs"),
                masks=found.each("mask.nxs"),
                scales=found.each("scale.nxs"),
                absorption=absorbed,
                frame_masks=found.each("frame_mask.nxs"),
                orientation=tmp_path / "orientation.json",
            ),
            outputs=refine_scale.Outputs(
                refined=tmp_path / "r.nxs", picture=tmp_path / "r.png", metrics=metrics
            ),
            params=refine_scale.Params(),
            threads=1,
        )
        factors = json.loads(metrics.read_text())["factor of the frames"].values()
        directed.append(np.array([f["rms of the direction's factor"] for f in factors]))
    assert directed[0].max() > 0.02
    assert np.all(directed[1] < 0.2 * directed[0])


def test_units_that_are_wrong_are_reported(tmp_path: Path) -> None:
    found = made(world("sphere", 3, (60, 64), span=4.0), tmp_path)
    with pytest.raises(HklflowError, match="`absorption` needs lengths in mm"):
        traced(found, shape={"kind": "sphere", "radii": [7.0]}, mu=100.0)
    metrics = traced(found, shape={"kind": "sphere", "radii": [7e-5]}, mu=10.0)
    assert "the crystal absorbs next to nothing" in metrics["warnings"][0]
    with pytest.raises(HklflowError, match=r"needs `absorption: \{density: \.\.\.\}`"):
        traced(found, shape={"kind": "sphere", "radii": [0.07]}, formula="SrTiO3")
