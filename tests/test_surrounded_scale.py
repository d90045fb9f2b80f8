"""Course of the transmission in strong air that does not pass through the crystal, without monitor.

The simulator of frames makes the crystal with the truth of its transmission; the air is added here.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.images import surrounded
from hklflow.stages import background
from tests.test_frame_scale import Made, Z, measure, run, scale_of, simulation

TRUTH = 1 - 0.5 * np.sin(np.pi * Z) ** 2  # changes by a factor of 2
N_RUN = 60
SHARE = 0.4  # behind the crystal
EXPOSURE = 1.7


def air(shape: tuple[int, ...], level: float) -> np.ndarray:
    """Counts of a pixel, falling with the angle and uneven: parts of the detector differ."""
    i, j = np.indices(shape)
    radius = np.hypot(i - 52, j - 61) / 40
    image = 1 / (0.3 + radius**2) * (1 + 0.3 * j / shape[1])
    return np.asarray(level * image / image.mean())


class World(NamedTuple):
    folder: Path
    made: Made
    truth: np.ndarray

    def stages(self, subtract: bool = True, **run_settings: Any) -> Any:
        """Run background and frame_scale; return the scale."""
        own = self.made
        outputs = {"background": "nxs", "picture": "png", "metrics": "json"}
        settings = {"raw": str(self.folder / "run.nxs"), "seen_through": "part", "share": SHARE}
        settings |= {"exposure": EXPOSURE}
        if subtract:
            run(
                background,
                background.Inputs(
                    scan=own / "scan.nxs",
                    mask=own / "mask.nxs",
                    statistics=own / "statistics.nxs",
                ),
                background.Outputs(**{n: own / f"background.{e}" for n, e in outputs.items()}),
                runs={"air": settings | run_settings},
            )
        return scale_of(own, own, background="background.nxs" if subtract else None)

    def error(self, scale: Any) -> float:
        """Return the rms error of the course."""
        course = scale.transmission.transmission
        truth = self.truth / np.median(self.truth)
        off = course / truth
        return float(np.std(off / off.mean()))


def make_world(folder: Path, image: Callable[[np.ndarray], np.ndarray], of_run: float) -> World:
    """Write the raw files and measure the frames.

    Parameters
    ----------
    image : function
        Return the counts of the surroundings, for the expected counts of the crystal.
    of_run : float
        Counts of the run over those that its exposure promises.
    """
    rng = np.random.default_rng(4)
    made_simulation = simulation(TRUTH, drift=0.0, seed=5)
    crystal = made_simulation.expected()
    around = image(crystal)
    frames = crystal + around * (1 - SHARE + SHARE * TRUTH[:, None, None])
    empty = replace(made_simulation.scan, n_frames=N_RUN, transmission=())
    made = Made(folder / "r1", made_simulation, np.zeros(crystal.shape[1:], np.uint32))
    made.folder.mkdir()
    header = made_simulation.raw_header() | {"monitor": None}
    for path, expected, more in (
        (made / "raw.nxs", frames, {}),
        (
            folder / "run.nxs",
            np.broadcast_to(of_run * EXPOSURE * around, (N_RUN, *around.shape)),
            {"n_frames": empty.n_frames, "exposure": EXPOSURE},
        ),
    ):
        with NXmxWriter(path, NXmxHeader(**(header | more))) as writer:
            writer.append(rng.poisson(expected).astype(np.uint32))
    measure(made, monitor="none")
    return World(folder, made, TRUTH)


@pytest.fixture(scope="module", params=[1.0, 2.0])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Air as strong as the diffuse level where T is 1, and twice as strong."""

    def image(crystal: np.ndarray) -> np.ndarray:
        return air(crystal.shape[1:], request.param * float(np.median(crystal[0])))

    return make_world(tmp_path_factory.mktemp("strong air"), image, 1.0)


@pytest.fixture(scope="module")
def furnace(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Air and powder rings, measured in a beam that was weaker than its exposure promises."""

    def image(crystal: np.ndarray) -> np.ndarray:
        i, j = np.indices(crystal.shape[1:])
        radius = np.hypot(i - 52, j - 61)
        rings = sum(np.exp(-0.5 * ((radius - r) / 1.2) ** 2) for r in (16, 24, 33, 41, 47))
        level = float(np.median(crystal[0]))
        return np.asarray(air(crystal.shape[1:], 0.7 * level) + 2 * level * rings)

    return make_world(tmp_path_factory.mktemp("furnace"), image, 1 / 1.6)


def test_the_course_is_that_of_the_crystal(world: World) -> None:
    before, after = world.stages(subtract=False), world.stages()
    assert world.error(before) > 0.05
    assert world.error(after) < 0.012
    figures = stage.read_json(world.made / "scale.json")
    assert figures["share of the background without the crystal in the signal"] > 0.3
    # Parts of the detector, whose shares of air differ, agree without the air.
    assert figures["error by parts of the detector that differ"] < 0.005
    assert figures["warnings"] == []


@pytest.mark.parametrize("transmission", [None, 0.4, 0.9])
def test_the_course_does_not_need_the_absolute_transmission(
    world: World, transmission: float | None
) -> None:
    """T times a constant is the level without the part that does not pass through the crystal."""
    if transmission == 0.9:
        with pytest.raises(HklflowError, match="a transmission is at most 1"):
            world.stages(transmission=transmission)
        return
    scale = world.stages(transmission=transmission)
    assert world.error(scale) < 0.012


def test_an_error_of_the_level_is_in_the_error_of_the_course(world: World) -> None:
    """A run that is 10 % too strong: the course is off by what is stated.

    Parts of the detector disagree then, which enlarges the stated error.
    """
    right, wrong = world.stages(), world.stages(scale=1.1, scale_error=0.1)
    off = wrong.transmission.transmission / right.transmission.transmission - 1
    stated = np.sqrt(wrong.transmission.errors**2 - right.transmission.errors**2)
    far = np.abs(right.transmission.transmission - 1) > 0.1
    ratio = np.abs(off[far]) / stated[far] * right.transmission.transmission[far]
    assert 0.5 < np.median(ratio) < 1.1


@pytest.mark.parametrize(("transmission", "limit"), [(0.7, 0.01), (None, 0.05)])
def test_a_fitted_factor_and_the_course_are_found_together(
    furnace: World, transmission: float | None, limit: float
) -> None:
    """The factor depends on the course, and the course on the factor.

    A transmission that is not known makes an error of the course, which is stated: the fit knows
    the sum of what passes through the crystal and what does not.
    """
    scale = furnace.stages(scale="fit", transmission=transmission)
    part = nexus.read_background(furnace.made / "background.nxs")[0]
    truth = 1.6 * (1 - SHARE + SHARE * TRUTH)
    assert np.mean(part.factor) == pytest.approx(truth.mean(), rel=0.015)
    stated = float(np.sqrt(np.mean(scale.transmission.errors**2)))
    assert furnace.error(scale) < 1.2 * stated < limit


@pytest.mark.parametrize("factor", [5.0, 30.0])
def test_more_background_than_signal_is_refused(world: World, factor: float) -> None:
    with pytest.raises(HklflowError, match="background without the crystal is"):
        world.stages(scale=factor)


def test_levels_of_parts_without_their_surroundings_are_those_of_the_crystal() -> None:
    """Algebra: parts with different shares of a constant background, and a crystal that changes."""
    T = np.linspace(1, 0.4, 50)
    crystal, around = np.array([1.0, 2.0, 4.0]), np.array([3.0, 1.0, 0.5])
    parts = T[:, None] * crystal + around
    level = parts.mean(axis=1)
    shape = (parts / level[:, None]).mean(axis=0)
    values = parts / level[:, None] / shape
    assert np.ptp(values, axis=0).max() > 0.2
    rest, errors = surrounded.parts_of_crystal(
        values,
        0.01 * np.ones(values.shape),
        shape,
        level,
        np.full(50, around.mean()),
        np.broadcast_to(around, parts.shape),
    )
    np.testing.assert_allclose(rest, 1, rtol=1e-12)
    expected = 0.01 * level[:, None] * shape / (T[:, None] * crystal)
    np.testing.assert_allclose(errors, expected, rtol=1e-12)
