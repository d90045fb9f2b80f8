"""Stage integrate: from files to a table, a picture and figures; norm as the transform has it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow import nexus, stage
from hklflow.base.errors import HklflowError
from hklflow.bragg.reflections import UNFIT, ReflectionFlag
from hklflow.formats.write_raw import NXmxHeader, NXmxWriter
from hklflow.images.frame_scale import FrameScale, Transmission
from hklflow.peaks.search import find_peaks
from hklflow.simulation.frames import Simulation
from hklflow.stages import import_scan, integrate
from tests.truth import bragg_scans as simulated
from tests.truth.defaults import peak_params
from tests.truth.orientations import write_orientation

N = 80


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    # The beam's transmission by the sample changes; the raw file does not tell the attenuation of
    # the sensor's material, so there is no sensor.
    return simulated.scan(
        "hexagonal",
        n_frames=N,
        detector={"sensor_thickness": None, "gaps": ((120, 124, 0, 200),)},
        transmission=tuple(1 + 0.2 * np.sin(np.arange(N) / 9)),
    )


@pytest.fixture(scope="module")
def made(simulation: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the stage reads."""
    folder = tmp_path_factory.mktemp("integrate")
    frames = np.concatenate(list(simulation.frames(16)))
    with NXmxWriter(folder / "raw.nxs", NXmxHeader(**simulation.raw_header())) as writer:
        writer.append(frames)
    stage.run(
        import_scan.main,
        inputs=import_scan.Inputs(raw=[folder / "raw.nxs"]),
        outputs=import_scan.Outputs(scan=folder / "scan.nxs"),
        params=import_scan.Params(),
        threads=1,
    )
    nexus.write_mask(folder / "mask.nxs", np.where(simulation.live, 0, 1).astype(np.uint32))
    ones = np.ones(N)
    factor = simulation.scan.frame_factor
    scale = FrameScale(
        monitor=factor,
        attenuation=ones,
        signal=ones,
        transmission=Transmission(ones, 0.01 * ones, ones, np.zeros(N, np.uint8), 1.0),
        rotation=1.0,
        area=1.0,
        source="none",
    )
    nexus.write_scale(folder / "scale.nxs", scale, ones)
    peaks = find_peaks([frames], ~simulation.live, peak_params(invalid_from=2.0**32 - 1))
    nexus.write_peaks(folder / "peaks.nxs", peaks)
    rotation = nexus.read_scan(folder / "scan.nxs").rotation
    group = simulated.SPACE_GROUPS["hexagonal"]
    write_orientation(folder / "orientation.json", {"r1": rotation}, simulation.ub, group)
    (folder / "accepted.json").write_text(json.dumps({"accepted": True}))
    return folder


def run(made: Path, name: str = "out", **params: Any) -> Path:
    stage.run(
        integrate.main,
        inputs=integrate.Inputs(
            scan=made / "scan.nxs",
            mask=made / "mask.nxs",
            scale=made / "scale.nxs",
            orientation=made / "orientation.json",
            accepted=made / "accepted.json",
            peaks=made / "peaks.nxs",
        ),
        outputs=integrate.Outputs(
            reflections=made / f"{name}.nxs",
            picture=made / f"{name}.png",
            metrics=made / f"{name}.json",
        ),
        params=integrate.Params(**{"rotation": "r1", **params}),
        threads=1,
    )
    return made / name


def test_intensities_of_files_are_true(made: Path, simulation: Simulation) -> None:
    out = run(made)
    table = nexus.read_reflections(out.with_suffix(".nxs"))
    truth = simulation.true_peaks()
    true = {
        (*hkl, round(frame)): intensity
        for hkl, frame, intensity in zip(
            np.rint(truth.hkl).astype(int).tolist(), truth.frame, truth.intensity, strict=True
        )
    }
    use = np.isfinite(table.intensity_profile) & ~table.has(UNFIT | ReflectionFlag.ABSENT)
    keys = [(*h, round(f)) for h, f in zip(table.hkl[use].tolist(), table.frame[use], strict=True)]
    expected = np.array([true[key] for key in keys])
    assert len(expected) > 150
    for estimate in ("sum", "profile"):
        intensity, sigma = table.intensity(estimate)  # type: ignore[arg-type]
        pulls = (intensity[use] - expected) / sigma[use]
        assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls))
        assert 0.85 < pulls.std() < 1.15
    metrics = json.loads(out.with_suffix(".json").read_text())
    counts = metrics["counts"]
    assert counts.pop("predicted") == sum(counts.values())
    assert metrics["accepted"] is True
    assert metrics["rows"] == len(table)
    assert metrics["mosaic in degrees"] == pytest.approx(0.3, rel=0.03)
    assert metrics["flags"]["MASKED"] > 5
    assert sum(shell["reflections"] for shell in metrics["shells"]) >= use.sum()
    assert out.with_suffix(".png").read_bytes()[1:4] == b"PNG"


@pytest.mark.slow
def test_without_its_corrections_intensities_are_others(made: Path) -> None:
    whole = nexus.read_reflections(run(made).with_suffix(".nxs"))
    bare = nexus.read_reflections(run(made, "bare", polarization=False).with_suffix(".nxs"))
    np.testing.assert_array_equal(whole.hkl, bare.hkl)
    use = np.isfinite(whole.intensity_sum) & (whole.intensity_sum > 20 * whole.sigma_sum)
    # The polarisation factor is at most 1, and far from it in one direction.
    ratio = bare.norm[use] / whole.norm[use]
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() > 1.1
    np.testing.assert_allclose(
        (bare.intensity_sum * bare.norm)[use], (whole.intensity_sum * whole.norm)[use], rtol=2e-2
    )


def test_d_min_ends_the_table(made: Path) -> None:
    table = nexus.read_reflections(run(made, "low", d_min=1.5).with_suffix(".nxs"))
    assert table.d.min() >= 1.5
    assert len(table) > 20


def test_a_scale_of_other_frames_is_refused(made: Path) -> None:
    ones = np.ones(N - 1)
    scale = FrameScale(
        monitor=ones,
        attenuation=ones,
        signal=ones,
        transmission=Transmission(ones, 0.01 * ones, ones, np.zeros(N - 1, np.uint8), 1.0),
        rotation=1.0,
        area=1.0,
        source="none",
    )
    nexus.write_scale(made / "other.nxs", scale, ones)
    with pytest.raises(HklflowError, match=f"is for {N - 1} frames"):
        integrate.main(
            inputs=integrate.Inputs(
                scan=made / "scan.nxs",
                mask=made / "mask.nxs",
                scale=made / "other.nxs",
                orientation=made / "orientation.json",
                peaks=made / "peaks.nxs",
            ),
            outputs=integrate.Outputs(
                reflections=made / "no.nxs", picture=made / "no.png", metrics=made / "no.json"
            ),
            params=integrate.Params(rotation="r1"),
        )


def test_many_that_are_unlike_the_profile_are_told_and_summed(made: Path) -> None:
    run(made, "plain")
    table = nexus.read_reflections(made / "plain.nxs")
    assert integrate._warnings(table) == []
    rng = np.random.default_rng(1)
    odd = rng.random(len(table)) < 0.2
    flags = table.flags | np.where(odd, int(ReflectionFlag.UNLIKE), 0)
    spoilt = replace(table, flags=flags)
    (told,) = integrate._warnings(spoilt)
    assert "strong reflections do not fit the learned profile" in told
    intensity, sigma = spoilt.intensity("profile")
    np.testing.assert_array_equal(intensity[odd], table.intensity_sum[odd])
    np.testing.assert_array_equal(sigma[odd], table.sigma_sum[odd])
    np.testing.assert_array_equal(intensity[~odd], table.intensity_profile[~odd])


def test_fits_that_contradict_sums_are_reported_with_the_worst(made: Path) -> None:
    run(made, "plain")
    table = nexus.read_reflections(made / "plain.nxs")
    rows = np.flatnonzero(table.intensity_sum > 20 * table.sigma_sum)[:3]
    flags, profile = table.flags.copy(), table.intensity_profile.copy()
    flags[rows] |= int(ReflectionFlag.CONTRADICTION)
    profile[rows] = table.intensity_sum[rows] * np.array([2.0, 5.0, 0.7])
    (message,) = integrate._warnings(replace(table, flags=flags, intensity_profile=profile))
    assert message.startswith("3 reflections are not merged")
    assert f"by a factor of 5.00 for {tuple(table.hkl[rows[1]].tolist())}" in message
