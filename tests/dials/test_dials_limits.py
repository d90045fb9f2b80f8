"""What the settings of integration do to DIALS's table, and a full temporary folder."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hklflow.base.errors import HklflowError
from hklflow.bragg.measurement import Measurement
from hklflow.bragg.reflections import ReflectionFlag
from hklflow.dials import frames, integrate
from hklflow.dials.programs import Dials
from hklflow.formats.write_raw import NXmxWriter
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, lattice, symmetry
from hklflow.images.scan import RotationScan
from hklflow.stages import integrate as stage
from tests.truth.defaults import configured

pytestmark = pytest.mark.slow

N = 40
SHAPE = (100, 120)
DIALS = Dials(None, (3, 12), "DIALS 3.12", {})
ONES = np.ones(N)


def rotation() -> Rotation:
    detector = Detector(SHAPE, (1e-4, 1e-4), np.array([0.006, 0.005, 0.06]), [0, -1, 0], [-1, 0, 0])
    goniometer = Goniometer(("phi",), [[-1.0, 0, 0]], [0.0], 0)
    return Rotation(Beam(0.5, 0.98), detector, goniometer, Scan(0.1, 0.01, N))


def scan() -> RotationScan:
    return RotationScan("simulated", 0, rotation(), ONES, ONES, ONES, "none")


def table() -> dict[str, np.ndarray]:
    """Four reflections h00 in a cell of 10 Å, as DIALS tells them: all summed and fitted."""
    centre = np.array([[30.5, 20.5, 5.5], [40.5, 30.5, 15.5], [50.5, 40.5, 25.5], [60.5, 50.5, 30]])
    low, high = np.floor(centre) - 3, np.floor(centre) + 4
    names = ("intensity.sum.value", "intensity.sum.variance", "background.mean")
    names += ("intensity.prf.value", "intensity.prf.variance", "profile.correlation")
    return {
        **dict.fromkeys(names, np.full(4, 100.0)),
        **dict.fromkeys(("num_pixels.background", "num_pixels.foreground"), np.full(4, 50)),
        "xyzcal.px": centre,
        "xyzobs.px.value": centre,
        "xyzobs.px.variance": np.ones((4, 3)),
        "bbox": np.stack([low, high], axis=2).reshape(4, 6).astype(np.int64),
        "flags": np.full(4, 256 | 512),
        "miller_index": np.array([[1, 0, 0], [2, 0, 0], [4, 0, 0], [5, 0, 0]]),
        "partiality": np.array([1.0, 0.6, 0.4, 1.0]),
        "zeta": np.array([0.05, -0.15, 0.9, 0.8]),
    }


def integrated(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Any:
    monkeypatch.setattr(integrate, "_run", lambda *_: table())
    measurement = Measurement(rotation(), np.ones(SHAPE), ONES, lambda: iter(()))
    ub = lattice.b_matrix([10.0, 10, 10, 90, 90, 90])
    group = symmetry.space_group("P 1")
    run = configured(integrate.integrate, stage.Params)
    return run(measurement, scan(), ub, group, dials=DIALS, **settings)


def test_settings_cut_the_table_of_dials(monkeypatch: pytest.MonkeyPatch) -> None:
    found = integrated(monkeypatch)
    assert found.hkl[:, 0].tolist() == [1, 2, 4, 5]
    assert found.has(ReflectionFlag.LONG).tolist() == [True, False, False, False]
    known = [True, True, False, True]
    assert np.isfinite(found.intensity_sum).tolist() == known
    assert np.isfinite(found.intensity_profile).tolist() == known
    assert found.has(ReflectionFlag.NO_PROFILE).tolist() == [not one for one in known]

    found = integrated(monkeypatch, d_min=2.4, min_zeta=0.2, min_recorded=0.7)
    assert found.hkl[:, 0].tolist() == [1, 2, 4]
    assert found.has(ReflectionFlag.LONG).tolist() == [True, True, False]
    assert np.isfinite(found.intensity_sum).tolist() == [True, False, False]


@pytest.mark.parametrize(
    "setting",
    [
        {"n_sigma": 4.0},
        {"max_frames": 50},
        {"overlap": 0.1},
        {"spot": (1.0, 1.0)},
        {"mosaic": 0.1},
        {"strong": 30.0},
        {"references": 100},
    ],
)
def test_what_dials_does_not_know_is_refused(setting: dict[str, Any]) -> None:
    known = {"rotation": "r1", "engine": "dials", "d_min": 0.5, "min_zeta": 0.2, "block": 3}
    stage._refuse_unheard(stage.Params(**known, min_recorded=0.9))
    (name,) = setting
    with pytest.raises(HklflowError, match=f"integrate: {name} set, .* engine builtin"):
        stage._refuse_unheard(stage.Params(**known, **setting))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (RuntimeError("Can't write data (file write failed: errno = 28, error message)"), True),
        (OSError(errno.EIO, "Input/output error"), False),
    ],
)
def test_a_full_temporary_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, told: bool
) -> None:
    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(NXmxWriter, "append", full)
    monkeypatch.setattr(frames.tempfile, "tempdir", str(tmp_path))
    block = np.zeros((N, *SHAPE), np.uint16)
    bad = np.zeros(SHAPE, bool)
    words = f"temporary folder {tmp_path} is full.*TMPDIR" if told else "Input/output"
    with pytest.raises(HklflowError if told else OSError, match=words):
        frames.write_frames(tmp_path / "f.nxs", scan(), rotation(), bad, [block], block.dtype)
