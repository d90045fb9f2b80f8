"""Fits that look good and are not: one place for the cases that were met, by their number.

Most have their tests where the code is that cures them; `CASES` names these. What fits nowhere
else follows below.
"""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation as Turn

from hklflow.stage.scan_limits import ScanLimits
from tests.test_verdict import judged
from tests.truth import worlds
from tests.truth.world_scans import answered
from tests.truth.worlds import World

CASES = {
    "1 broad maxima refined as reflections": (
        "orientation.test_sharpness.test_cell_and_orientation_among_maxima",
    ),
    "2 a slip of 0.1°": (
        "test_unsteady_scans.test_a_slip_of_the_parent_is_told_and_a_large_one_not_accepted",
        "orientation.test_steadiness.test_the_remedy_of_a_slip_cures_it",
    ),
    "3 a second lattice of 10 %": (
        "test_unsteady_scans.test_a_second_crystal_of_the_parent_is_not_accepted",
        "test_verdict.test_a_second_crystal_fails_by_its_share",
    ),
    "4 the remedy where symmetry breaks and a superlattice appears": (
        "test_transition_remedies.test_the_remedy_indexes_the_child_with_its_true_lattice",
    ),
    "5 a fixed start brings its detector": (
        "test_fixed_orientation.test_the_detector_of_the_start_is_taken_with_its_orientation",
    ),
    "6 settings of the user that did not reach": (
        "bragg.test_bragg_converge_files.test_it_integrates_as_the_section_of_the_integration_says",
        "test_fits_that_look_good.test_warnings_of_a_refinement_use_the_limits_of_the_user",
        "test_contract.test_a_default_stands_with_the_stage_alone",
    ),
    "7 accepted without a word": (
        "test_verdict.test_spots_beside_a_fixed_orientation_are_doubtful",
        "test_fits_that_look_good.test_a_large_chi2_is_doubtful",
        "test_fits_that_look_good.test_rotations_that_disagree_are_doubtful",
        "bragg.test_bragg_merging.test_laue_group_that_is_too_high",
        "test_agreement.test_a_crystal_of_4_m_is_not_4_mmm",
    ),
    "8 a closed shutter is known before the search": (
        "test_closed_shutter.test_closed_frames_are_named_before_the_search",
    ),
    "9 sensor material and thickness of NXmx": (
        "test_import_scan.test_the_norm_has_the_efficiency_of_the_sensor_that_the_raw_file_names",
    ),
    "10 a mosaic spread of 1°": (
        "test_frame_scans.test_a_mosaic_crystal_has_its_cell",
        "orientation.test_arcs.test_centroids_of_arcs_are_moved_to_the_mean_block",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_case_has_its_tests(case: str) -> None:
    for name in CASES[case]:
        module, test = name.rsplit(".", 1)
        assert callable(getattr(importlib.import_module(f"tests.{module}"), test))


def of_parent(world: World, folder: Path) -> dict:
    """Verdict on a world that is its own parent."""
    assert not answered(world, folder).refusal
    return judged(folder / "parent.json", folder / "parent.json")


@pytest.mark.slow
def test_warnings_of_a_refinement_use_the_limits_of_the_user(tmp_path: Path) -> None:
    """Case 6: a slip that moves spots by 0.05 pixels, and a user who wants to know from 1 on."""
    world = worlds.world("slip", "monoclinic", 61, 0.1, n_frames=240)
    strict = answered(world, tmp_path)
    assert any("the crystal slipped by" in text for text in strict.said)
    quiet = ScanLimits(told_shift=1.0, max_shift=2.0, told_bias=1e3)
    loose = answered(world, tmp_path, accept=quiet)
    assert not any("the crystal slipped by" in text for text in loose.said)


@pytest.mark.slow
def test_a_large_chi2_is_doubtful(tmp_path: Path) -> None:
    """Case 7: the detector is 3 % nearer than the header says; the cell takes it up."""
    found = of_parent(worlds.world("wrong_header:distance", "orthorhombic", 23), tmp_path)
    assert found["verdict"] == "doubtful"
    assert found["figures"]["misfit"]["reduced chi2"] > 100
    assert any("times the peaks' own errors (reduced chi² " in text for text in found["doubts"])


@pytest.mark.slow
def test_rotations_that_disagree_are_doubtful(tmp_path: Path) -> None:
    """Case 7: the axis of the second rotation is 0.1° off; reduced χ² is 5, below its limit."""
    world = worlds.world("plain", "monoclinic", 61, rotations=2)
    across = np.cross(world.scans[1].axis, [0.0, 0.0, 1.0])
    tilt = Turn.from_rotvec(np.radians(0.1) * across / np.linalg.norm(across))
    header = replace(world.scans[1], axis=tilt.apply(world.scans[1].axis))
    found = of_parent(replace(world, scans=(world.scans[0], header)), tmp_path)
    assert found["verdict"] == "doubtful"
    assert 2.3 < found["figures"]["misfit"]["reduced chi2"] < 7
    assert found["doubts"]
    assert all(text.startswith("r1: the crystal wobbles by ") for text in found["doubts"])
