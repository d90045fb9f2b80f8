"""Stage absorption: from the shape of a world's crystal to frame scale, transform and Bragg."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.images.frame_scale import FrameScale
from hklflow.stages import refine_scale
from hklflow.transform.direction import Refined
from tests.truth.quantitative_background import Surroundings
from tests.truth.quantitative_catalogue import world
from tests.truth.quantitative_scans import (
    Made,
    integrated,
    made,
    searched,
    shape_by_faces,
    strong_against_truth,
    traced,
    transformed,
    use,
)


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
@pytest.mark.pictures
def test_an_unknown_shape_states_its_uncertainty_and_divides_by_its_mean(plate: Made) -> None:
    folder = plate.folder / "unknown"
    folder.mkdir()
    low, high = (2 * f(plate.world.absorber.body.size) for f in (min, max))
    own = replace(plate, folder=folder)
    for name in plate.names:
        (folder / name).symlink_to(plate.folder / name)
    (folder / "orientation.json").symlink_to(plate.folder / "orientation.json")
    size, mu = (low / 1.2, high * 1.2), plate.world.absorber.mu
    metrics = traced(own, shape={"kind": "unknown", "size": size}, mu=mu)
    common = metrics["errors common to many voxels"]
    sigma = np.array(common["standard uncertainty of ln S"])
    np.testing.assert_allclose(sigma**2, np.diag(common["covariance of ln S"]))
    assert 0 < common["change with |Q| (rms)"] < 0.1
    assert 0 < common["change with the direction of Q (rms)"] < 0.3
    assert "the shape of the crystal is not known" in common["sentence"]
    assert (folder / "absorption.png").stat().st_size > 1000

    scale = nexus.read_scale(plate.folder / "r1/scale.nxs")
    ones = np.ones(len(scale.monitor))
    volumes = []
    try:
        for absorption in (None, ones):
            nexus.write_scale(
                plate.folder / "r1/scale.nxs",
                FrameScale(
                    scale.monitor, scale.attenuation, ones, scale.transmission, 1.0, 1.0, "none",
                    absorption,
                ),
                ones,
            )  # fmt: skip
            file = None if absorption is None else folder / "absorption.nxs"
            volumes.append(transformed(plate, file))
    finally:
        nexus.write_scale(plate.folder / "r1/scale.nxs", scale, ones)
    without, with_mean = volumes
    assert "mean absorption of unknown shapes" in with_mean.notes["corrected for"]
    grid = with_mean.grid
    axes = [grid.first[i] + grid.step[i] * np.arange(grid.shape[i]) for i in (2, 1, 0)]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[..., ::-1]
    measured = without.norm > 0
    q = np.linalg.norm(hkl[measured] @ plate.world.crystal.B.T, axis=-1)
    mean = np.interp(q, common["|Q| (1/Å)"], common["mean of ln T, in the norm"])
    ratio = np.log(with_mean.norm[measured] / without.norm[measured])
    # A voxel at the edge of the detector has its observations not around its middle.
    assert np.sqrt(np.mean((ratio - mean) ** 2)) < 0.15 * np.sqrt(np.mean(mean**2))
    np.testing.assert_allclose(ratio, mean, atol=2e-3)


@pytest.mark.slow
def test_the_extents_of_an_unknown_shape_are_two_in_order(plate: Made) -> None:
    kinds: list[tuple[dict[str, object], str]] = [
        ({"kind": "unknown"}, "a crystal of unknown shape needs `size: "),
        ({"kind": "sphere", "radii": [1], "size": [1, 2]}, "a sphere has no size"),
        ({"kind": "unknown", "size": [0.3, 0.1]}, "extent 0.3 mm is above the largest, 0.1 mm"),
        ({"kind": "unknown", "size": [0, 0.1]}, "greater than 0"),
    ]
    for shape, sentence in kinds:
        with pytest.raises(ValueError, match=sentence):
            traced(plate, shape=shape, mu=1.0)
    with pytest.raises(HklflowError, match="needs lengths in mm"):
        traced(plate, shape={"kind": "unknown", "size": [10, 20]}, mu=100.0)


@pytest.mark.slow
def test_bragg_intensities_of_a_plate_are_right(tmp_path: Path) -> None:
    """Without the shape they follow ln T with a slope of 1, with it they are those of the CIF.

    The scatter that is left is of 1° frames, not of the transmission: counting gives 0.3 %.
    """
    plan = {"span": 70.0, "settings": (0,), "start": (0,), "surroundings": Surroundings()}
    found = made(world("plate", 11, (120, 128), **plan), tmp_path)
    w = found.world
    searched(found)
    traced(found, shape=shape_by_faces(found), mu=w.absorber.mu)
    scatter, slope = [], []
    for absorbed in (None, tmp_path / "absorption.nxs"):
        if absorbed:
            use(found)
        table, log = strong_against_truth(w, integrated(found, absorbed, "builtin"))
        assert len(table) > 100
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
