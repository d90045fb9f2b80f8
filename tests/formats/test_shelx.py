"""HKLF 4: columns that never overflow and numbers that keep their digits."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hklflow.base.errors import HklflowError
from hklflow.bragg.structure_factors import Crystal
from hklflow.formats import shelx

CRYSTAL = Crystal("salt", "T300", "T300", "P 1", (5, 6, 7, 80, 90, 100), (0.0,) * 6, 0.4, 300.0)


def written(path: Path, intensity: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, float]:
    n = len(intensity)
    hkl = np.stack([np.arange(n) - 5, np.full(n, -99), np.full(n, 999)], axis=1)
    factor = shelx.write_hklf4(path, hkl, intensity, sigma, crystal=CRYSTAL, merged=True)
    lines = path.read_text().splitlines()[: n + 1]
    assert {len(line) for line in lines} == {32}
    # A blank between all columns: programs that split at blanks read it too.
    assert [line.split()[:3] for line in lines[:n]] == [[str(x) for x in h] for h in hkl.tolist()]
    columns = [[float(line[12:20]), float(line[20:28])] for line in lines]
    assert all(line[12] == line[20] == line[28] == " " for line in lines)
    assert lines[-1].split() == ["0", "0", "0", "0.00", "0.00", "0"]
    return np.array(columns[:n]) / factor, factor


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.floats(-12, 12))
def test_values_come_back(tmp_path_factory: pytest.TempPathFactory, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    intensity = 10**size * rng.standard_normal(50) * 10 ** rng.uniform(-4, 0, 50)
    sigma = 10**size * 10 ** rng.uniform(-4, -1, 50)
    path = tmp_path_factory.mktemp("shelx") / "a.hkl"
    found, factor = written(path, intensity, sigma)
    # Of the seven columns one is the point, and one may be the sign.
    top = max(np.max(np.maximum(intensity, -10 * intensity)), sigma.max())
    assert 999 <= factor * top <= 9999.0001
    for column, values in zip(found.T, (intensity, sigma), strict=True):
        np.testing.assert_allclose(column, values, rtol=6e-4, atol=6e-8 * top)


def test_strongest_keep_their_digits(tmp_path: Path) -> None:
    intensity = np.array([9998.765, -999.8765, 999.99999, 0.0, 1.234567])
    found, factor = written(tmp_path / "a.hkl", intensity, np.full(5, 0.0123456))
    assert factor == 1
    np.testing.assert_allclose(found[:, 0], [9998.765, -999.8765, 1000, 0, 1.234567], rtol=5e-6)
    np.testing.assert_allclose(found[:, 1], 0.01235, rtol=1e-3)


def test_what_has_no_place_is_refused(tmp_path: Path) -> None:
    one = np.ones(1)
    with pytest.raises(HklflowError, match="indices up to 1000"):
        shelx.write_hklf4(
            tmp_path / "a", np.array([[1000, 0, 0]]), one, one, crystal=CRYSTAL, merged=True
        )
    with pytest.raises(HklflowError, match="not a number"):
        shelx.write_hklf4(
            tmp_path / "a", np.array([[1, 0, 0]]), one * np.nan, one, crystal=CRYSTAL, merged=True
        )
