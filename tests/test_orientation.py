"""Which peaks an orientation is refined from."""

from dataclasses import replace

import numpy as np
import pytest

from hklflow.peaks.table import PeakFlag, PeakTable
from hklflow.stage.orientation import observe
from hklflow.stage.orientation.observed import _sharp
from tests.truth import worlds
from tests.truth.world_scans import scan_of

SCAN = scan_of(worlds.world("plain", "cubic", 1), 0)


def peaks(widths: np.ndarray, intensity: np.ndarray) -> PeakTable:
    n, one = len(widths), np.ones(len(widths))
    at = dict.fromkeys(("frame", "slow", "fast", "var_frame", "var_slow", "var_fast"), one)
    at |= {"width_frame": one, "width_slow": widths / np.sqrt(2), "width_fast": widths / np.sqrt(2)}
    rest = ("var_intensity", "background", "maximum", "significance", "chi2")
    return PeakTable(
        **at,
        **dict.fromkeys(rest, one),
        intensity=intensity,
        n_pixels=np.full(n, 9),
        n_frames=np.full(n, 2),
        flags=np.zeros(n, np.int64),
        counts={},
    )


def test_many_weak_and_broad_maxima_do_not_make_the_few_strong_reflections_odd() -> None:
    # What is narrowest is noise.
    widths = np.repeat([0.1, 1.0, 4.0, 5.0], [2, 10, 40, 5])
    intensity = np.repeat([30.0, 1000.0, 50.0, -20.0], [2, 10, 40, 5])
    kept = _sharp(widths, intensity)
    assert kept.tolist() == [True] * 12 + [False] * 45


def test_peaks_as_wide_as_the_fit_allows_are_left_out_and_counted() -> None:
    table = peaks(np.full(40, 1.0), np.full(40, 100.0))
    table.flags[:3] = PeakFlag.WIDEST
    table.flags[2:4] |= PeakFlag.OVERLOAD  # counted once
    found = observe(["r"], [SCAN], [table])
    assert len(found.tables[0]) == 36
    assert found.left_out == {"overloaded": 2, "as wide as the fit allows": 2}
    assert found.notes == []
    fewer = found.select(np.arange(36) < 30, "broader than reflections")
    assert fewer.left_out["broader than reflections"] == 6


def test_a_peak_cut_beside_its_centre_has_the_errors_of_the_share_that_is_missing() -> None:
    table = peaks(np.full(40, 1.0), np.full(40, 100.0))
    last = float(SCAN.rotation.scan.n_frames)
    table = replace(table, frame=np.full(40, 3.0), slow=np.full(40, 200.0), fast=np.full(40, 300.0))
    table.frame[:6] = 0.5, last - 0.5, -0.5, last + 0.5, 0.0, last  # centres beyond the ends
    table.flags[:6] = PeakFlag.SCAN_END
    table.flags[6] = PeakFlag.SCAN_END | PeakFlag.MOMENTS  # not fitted
    found = observe(["r"], [SCAN], [table])
    assert len(found.tables[0]) == 35
    assert found.left_out == {"cut by the scan's end": 5}
    # A curve of width 1 whose centre is 0.5 frames from the end: 31 % are missing. Twice this share
    # is the additional error relative to the width; it was the whole width at any share, although
    # measured curves have it for 50 % only.
    half_missing = 1 + (2 * 0.30854) ** 2
    expected = [half_missing, half_missing] + [1] * 33
    np.testing.assert_allclose(found.tables[0].var_frame, expected, atol=1e-3)
    # The spot moves while it rocks, so that its place is less well known, too.
    for name in ("var_slow", "var_fast"):
        assert getattr(found.tables[0], name)[2:] == pytest.approx(np.ones(33), abs=1e-3)
    place = found.tables[0].var_slow + found.tables[0].var_fast
    assert (place[:2] > 2.001).all()


def test_spots_narrower_than_a_pixel_do_not_differ_in_width() -> None:
    """A strong spot of 0.3 pixels does not make weaker spots of 0.6 pixels odd."""
    widths, intensity = np.array([0.3, 0.6, 0.7, 2.0]), np.array([1e5, 1e3, 1e3, 1e3])
    assert _sharp(widths, intensity).tolist() == [True, True, True, False]


def test_where_most_peaks_are_as_wide_as_the_fit_allows_the_window_is_told() -> None:
    table = peaks(np.full(40, 1.0), np.full(40, 100.0))
    table.flags[:30] = PeakFlag.WIDEST
    found = observe(["r"], [SCAN], [table])
    assert len(found.tables[0]) == 40
    assert "find_peaks: window" in found.notes[0]
