"""Predicted times: the speed of the machine, and jobs that wait for each other."""

import copy
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
import yaml

from hklflow.experiment import config, cost, pace
from hklflow.experiment.cost import COSTS, Estimate, Shape
from hklflow.experiment.pace import DECODE_RATE, Pace
from hklflow.experiment.wall_time import wall_seconds
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter

from .test_config import CONFIG, base  # noqa: F401  (base is a fixture)

SHAPE = Shape(frames=1000, pixels=2_000_000, voxels=8_000_000)
MPIXEL = 2000.0


def _estimate(base: Path, measured: Pace | None = None, **more: Any) -> Estimate:  # noqa: F811
    return Estimate(config.load(copy.deepcopy(CONFIG) | more, base), learn=False, pace=measured)


def test_a_slow_machine_takes_longer_in_proportion(base: Path) -> None:  # noqa: F811
    usual, slow = _estimate(base), _estimate(base, Pace(2.0))
    for rule in COSTS:
        assert slow.seconds(rule, SHAPE) == pytest.approx(2 * usual.seconds(rule, SHAPE)), rule


def test_frames_that_decode_slowly_cost_what_the_decoder_takes(base: Path) -> None:  # noqa: F811
    usual, slow = _estimate(base), _estimate(base, Pace(1.0, DECODE_RATE / 10))
    more = 9 * MPIXEL / DECODE_RATE
    for rule in ("mask_3d", "transform", "integrate"):
        difference = slow.seconds(rule, SHAPE) - usual.seconds(rule, SHAPE)
        assert difference == pytest.approx(more), rule
    for rule in ("merge", "refine", "pdf"):
        assert slow.seconds(rule, SHAPE) == usual.seconds(rule, SHAPE), rule


def test_the_peak_search_takes_its_own_measured_rate(base: Path) -> None:  # noqa: F811
    found = _estimate(base, Pace(1.0, DECODE_RATE, 10.0)).seconds("find_peaks", SHAPE)
    assert found == pytest.approx(COSTS["find_peaks"].seconds + MPIXEL / 10)


def test_a_volume_larger_than_the_memory_of_the_transform_takes_passes(
    base: Path,  # noqa: F811
) -> None:
    large = replace(SHAPE, voxels=1_000_000_000)
    needed = COSTS["transform"].per_mvoxel * 1000
    one = _estimate(base, transform={"memory": 1.01 * needed})
    three = _estimate(base, transform={"memory": 0.34 * needed})
    cost_of = COSTS["transform"]
    more = three.seconds("transform", large) - one.seconds("transform", large)
    assert MPIXEL / DECODE_RATE < more / 2 < 1.001 * MPIXEL / cost_of.rate
    saved = one.megabytes("transform", large) - three.megabytes("transform", large)
    assert saved == pytest.approx(0.66 * needed)


def _write(experiment: Any) -> None:
    """Write 30 frames of the first rotation."""
    key = experiment.all_rotations()[0]
    path = experiment.base / experiment.rotation(*key).parts[0]
    header = NXmxHeader(
        shape=(64, 80), pixel_size=(1e-4, 1e-4), origin=np.array([0, 0, 0.1]),
        slow=np.array([0, 1.0, 0]), fast=np.array([1.0, 0, 0]), wavelength=1.0,
        axis_names=["phi"], axes=np.array([[-1.0, 0, 0]]), angles=np.zeros(1), scan_axis=0,
        start=0.0, step=0.01, n_frames=30, exposure=0.1,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    with NXmxWriter(path, header) as writer:
        writer.append(rng.poisson(3.0, (30, 64, 80)).astype(np.uint32))


def test_frames_that_cannot_be_read_leave_the_clock(base: Path) -> None:  # noqa: F811
    experiment = config.load(copy.deepcopy(CONFIG), base)
    key = experiment.all_rotations()[0]
    raw = base / experiment.rotation(*key).parts[0]
    for content in (None, b"", b"no frames", b"\x89HDF\r\n\x1a\n"):
        if content is not None:
            raw.parent.mkdir(parents=True, exist_ok=True)
            raw.write_bytes(content)
        found = pace.measured(experiment)
        assert found.clock > 0
        assert (found.decode, found.search) == (None, None)
        assert raw.name in found.reason
        assert found.reason in str(found)


def test_simulated_frames_do_not_exist_yet(tmp_path: Path) -> None:
    demo = Path(__file__).parents[1] / "demo"
    shutil.copytree(demo / "config", tmp_path / "config")
    data = yaml.safe_load((tmp_path / "config/config.yaml").read_text())
    experiment = config.load(data, tmp_path)
    assert "not simulated yet" in str(pace.measured(experiment))


def test_kernels_are_not_compiled_for_a_prediction(
    base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @numba.njit
    def kernel(x: float) -> float:
        return x + 1.0

    experiment = config.load(copy.deepcopy(CONFIG), base)
    _write(experiment)
    monkeypatch.setattr(pace, "_decode_rate", lambda frames: kernel(1.0))
    found = pace.measured(experiment)
    assert not kernel.signatures
    assert (found.decode, found.search) == (None, None)
    assert "hklflow.experiment.warm" in str(found)
    # Afterwards, kernels compile as before.
    assert kernel(1.0) == 2.0


def test_the_first_frames_are_measured(
    base: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rates are those of a clock that advances by a second for each piece of work."""
    monkeypatch.setattr(pace, "_SHORTEST", 0.5)
    # The kernels may not be compiled yet where tests run.
    monkeypatch.setattr(pace.private, "no_compilation", lambda error: nullcontext())
    experiment = config.load(copy.deepcopy(CONFIG), base)
    _write(experiment)
    done = []

    def second(work: Any) -> float:
        work()
        done.append(work)
        return 1.0

    monkeypatch.setattr(pace, "_seconds", second)
    found = pace.measured(experiment)
    pixels = 30 * 64 * 80 / 1e6
    assert found.clock == pytest.approx(1 / pace.CLOCK_SECONDS)
    assert found.decode == pytest.approx(pixels)
    assert found.search == pytest.approx(pixels)
    # The clock's turns, one reading and one search.
    assert len(done) == pace._TURNS + 2


def _jobs(links: dict[str, tuple[str, ...]]) -> list[Any]:
    return [SimpleNamespace(outputs={"x": name}, inputs=inputs) for name, inputs in links.items()]


def test_jobs_wait_for_their_inputs_and_for_cores() -> None:
    # Two rotations (a, b), each read by one job (c, d), and one job of both (e).
    jobs = _jobs({"a": (), "b": ("raw",), "c": ("a",), "d": ("b",), "e": ("c", "d")})
    seconds = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert wall_seconds(jobs, seconds, 1) == 31.0
    # The longest chain is b, d, e; two cores are enough for it.
    assert wall_seconds(jobs, seconds, 2) == 26.0
    assert wall_seconds(jobs, seconds, 100) == 26.0
    alone = _jobs(dict.fromkeys("abcdef", ()))
    assert wall_seconds(alone, [1.0] * 6, 4) == 2.0


def test_costs_include_a_decode() -> None:
    """Rules that read frames cannot be faster than the decoder."""
    assert all(it.rate == math.inf or it.rate <= DECODE_RATE for it in cost.COSTS.values())
