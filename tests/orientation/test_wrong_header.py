"""What is said of a header that is wrong in one thing finds the crystal when it is pasted.

Remedies are pasted into the configuration or the tables of an experiment, which is loaded, imported
and refined again (`tests.truth.wrong_headers`).
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.truth import world_scans, worlds
from tests.truth.first_contacts import draw
from tests.truth.first_contacts_peaks import observed
from tests.truth.world_scans import compared
from tests.truth.wrong_headers import (
    CLASSES,
    Answer,
    Pasted,
    remedies,
    stated,
    true_detector,
)

from hklflow.geometry import BEAM, rotation_matrix, symmetry
from hklflow.geometry.correction import Correction
from hklflow.orientation import arm_angles, hypotheses
from hklflow.orientation.expected import SearchedLattice
from hklflow.orientation.hypotheses import Hypothesis
from hklflow.orientation.residuals import Peaks
from hklflow.orientation.wrong_header import explained


def small(
    kind: str, system: str, seed: int, size: float | None = None, **more: Any
) -> worlds.World:
    return worlds.world(kind, system, seed, size, n_frames=40, mosaic=0.1, **more)


def beam_centre(answer: Answer, rotation: str = "r0") -> np.ndarray:
    from hklflow.geometry import detector_from_dict

    detector = detector_from_dict(answer.data["rotations"][rotation]["detector"])
    return np.array(detector.plane.intersect(BEAM))


@pytest.mark.parametrize(
    ("name", "system", "seed"),
    [
        ("axis", "hexagonal", 3),
        *(
            pytest.param(*world, marks=pytest.mark.slow)
            for world in (
                ("mirrored", "orthorhombic", 2),
                ("beam", "triclinic", 6),
                ("nanometre", "hexagonal", 3),
                ("setting", "orthorhombic", 2),
                ("arm", "tetragonal", 1),
                ("distance", "orthorhombic", 2),
                ("keV", "hexagonal", 101),
            )
        ),
    ],
)
def test_the_wrong_thing_is_named_and_every_remedy_finds_the_crystal(
    name: str, system: str, seed: int, tmp_path: Path
) -> None:
    kind, size, _, words = CLASSES[name]
    world = small(kind, system, seed, size)
    experiment = stated(world, tmp_path)
    refused = experiment.refined()
    assert re.search(words, refused.explanation)
    assert remedies(refused.explanation)
    for remedy in remedies(refused.explanation):
        cured = experiment.with_remedy(remedy).refined()
        assert not cured.refusal, remedy
        if name != "setting":
            assert np.abs(compared(world, cured.data).cell_off).max() < 0.005, remedy


def test_absences_choose_among_the_settings_of_one_lattice(tmp_path: Path) -> None:
    """C m c m, with the cell of B b m m: B m m b has the same centring, with other glide planes."""
    world = small("wrong_header:setting", "orthorhombic", 3)
    assert world.space_group == "Cmcm"
    experiment = stated(world, tmp_path)
    by_symbol, by_cell = remedies(experiment.refined().explanation)
    assert "`B b m m`" in by_symbol
    cured = experiment.with_remedy(by_cell).refined()
    assert cured.data["cell"] == pytest.approx(world.sample.cell, rel=1e-3)


@pytest.mark.slow
def test_a_wrong_scale_is_cured_by_each_of_its_remedies(tmp_path: Path) -> None:
    """The wavelength is 8 % wrong. Its remedy restores the cell; another cell is the scaled one."""
    world = small("wrong_header:wavelength", "tetragonal", 1, 0.08)
    experiment = stated(world, tmp_path)
    by_wavelength, by_cell = remedies(experiment.refined().explanation)
    cured = experiment.with_remedy(by_wavelength)
    assert cured.config["import_scan"]["wavelength"] == pytest.approx(
        world.sample.instrument.wavelength, rel=1e-3
    )
    assert np.abs(compared(world, cured.refined().data).cell_off).max() < 0.002
    scaled = np.array(experiment.with_remedy(by_cell).refined().data["cell"])
    factor = world.instrument.wavelength / world.sample.instrument.wavelength
    assert scaled[:3] == pytest.approx(world.cell[:3] * factor, rel=2e-3)


@pytest.mark.slow
def test_at_small_angles_distance_wavelength_pixels_and_cell_are_alike(tmp_path: Path) -> None:
    """15° to the detector's edge: each of the four indexes the peaks.

    The one that was wrong comes first: it fits best.
    """
    world = small("wrong_header:wavelength", "tetragonal", 57, 0.08, arm=0.0)
    experiment = stated(world, tmp_path)
    texts = remedies(experiment.refined().explanation)
    words = ["wavelength:", "distance=", "pixels of", "samples.tsv"]
    assert [word in text for text, word in zip(texts, words, strict=True)] == [True] * 4
    for text in texts:
        assert not experiment.with_remedy(text).refined().refusal, text


def test_a_remedy_with_which_the_refinement_fails_is_not_offered(tmp_path: Path) -> None:
    """35° to the detector's edge: another distance indexes 6 of 10 peaks, the wavelength all."""
    world = small("wrong_header:wavelength", "triclinic", 55, 0.08)
    experiment = stated(world, tmp_path)
    texts = remedies(experiment.refined().explanation)
    assert not any("distance" in text or "pixels" in text for text in texts)
    assert "wavelength" in texts[0]


def test_the_stated_geometry_is_no_remedy(tmp_path: Path) -> None:
    """A distance that was pasted, wrongly: it is not proposed again, as what it is already."""
    world = small("wrong_header:wavelength", "triclinic", 55, 0.08)
    experiment = stated(world, tmp_path)
    pasted = experiment.with_remedy('`import_scan: {detector: ["distance=0.0660195"]}`')
    for text in remedies(pasted.refined().explanation):
        assert not pasted.with_remedy(text).refined().refusal


def test_mirrored_images_keep_a_beam_centre_that_is_not_in_the_middle(tmp_path: Path) -> None:
    """The alternative to a reversed axis has the shift 2c - n: here 95 pixels."""
    world = small("wrong_header:axis", "monoclinic", 12, arm=0.0)
    experiment = stated(world, tmp_path, config={"import_scan": {"detector": ["shift=0,0.5"]}})
    _, mirrored = remedies(experiment.refined().explanation)
    assert "mirrored=fast" in mirrored
    cured = experiment.with_remedy(mirrored).refined()
    assert np.abs(compared(world, cured.data).cell_off).max() < 0.005
    assert beam_centre(cured) == pytest.approx(beam_centre_of(world), abs=2)


def beam_centre_of(world: worlds.World) -> np.ndarray:
    return np.array(true_detector(world).intersect(BEAM))


@pytest.mark.parametrize(
    "layer", ["per_scan", *(pytest.param(x, marks=pytest.mark.slow) for x in ("", "per_sample"))]
)
def test_a_remedy_contains_what_is_configured_and_replaces_it_in_its_layer(
    layer: str, tmp_path: Path
) -> None:
    """The header is an image of another distance and order of pixels; both are corrected."""
    world = small("wrong_header:beam", "triclinic", 6, 25.0)
    experiment = stated(world, tmp_path)
    raw = Correction(distance=1.3 * experiment.detectors[0].distance, mirrored=("slow",))
    again = [f"distance={experiment.detectors[0].distance:.6g}", "mirrored=slow"]
    section: dict[str, Any] = {"import_scan": {"detector": again}}
    config = {"": section, "per_sample": {"per_sample": {"s": section}}}.get(
        layer, {"per_scan": {"s/a": section}}
    )
    detectors = [raw.applied(d) for d in experiment.detectors]
    experiment = replace(experiment, detectors=detectors, config=config)
    (remedy,) = remedies(experiment.refined().explanation)
    assert f"config.yaml `{layer or 'import_scan'}: " in remedy
    cured = experiment.with_remedy(remedy).refined()
    assert np.abs(compared(world, cured.data).cell_off).max() < 0.005
    assert beam_centre(cured) == pytest.approx(beam_centre_of(world), abs=2)


@pytest.mark.slow
def test_numbers_are_for_pixels_that_are_not_binned(tmp_path: Path) -> None:
    world = small("wrong_header:beam", "triclinic", 6, 25.0)
    config = {"import_scan": {"detector": ["shift=3,-5"]}}
    experiment = stated(world, tmp_path, binning=2, config=config)
    (remedy,) = remedies(experiment.refined().explanation)
    cured = experiment.with_remedy(remedy).refined()
    assert beam_centre(cured) == pytest.approx(beam_centre_of(world), abs=2)


@pytest.mark.slow
def test_an_arm_that_three_of_four_headers_lack_is_given_for_these(tmp_path: Path) -> None:
    world = small("wrong_header:arm", "tetragonal", 1, 20.0, rotations=4)
    experiment = of_some(world, tmp_path, right=("r3",))
    experiment = replace(experiment, config={"import_scan": {"detector": ["shift=1,0"]}})
    refused = experiment.refined()
    assert "for r0, r1 and r2 only" in refused.explanation
    (remedy,) = remedies(refused.explanation)
    assert "`per_scan: {s/a: {import_scan: " in remedy
    cured = experiment.with_remedy(remedy).refined()
    assert np.abs(compared(world, cured.data).cell_off).max() < 0.005


def of_some(world: worlds.World, folder: Path, right: tuple[str, ...]) -> Pasted:
    """The headers of some rotations are right."""
    experiment = stated(world, folder)
    detectors = [
        true_detector(world) if f"r{i}" in right else d for i, d in enumerate(experiment.detectors)
    ]
    return replace(experiment, detectors=detectors)


@pytest.mark.slow
def test_a_beam_centre_of_one_rotation_is_given_for_it(tmp_path: Path) -> None:
    world = small("wrong_header:beam", "triclinic", 6, 25.0, rotations=3)
    experiment = of_some(world, tmp_path, right=("r0", "r2"))
    (remedy,) = remedies(experiment.refined().explanation)
    assert '["r1:shift=' in remedy
    cured = experiment.with_remedy(remedy).refined()
    assert beam_centre(cured, "r1") == pytest.approx(beam_centre_of(world), abs=2)


@pytest.mark.parametrize(
    ("configured", "factor"),
    [({}, 1.08), pytest.param({"wavelengths": {"r0": 0}}, 0.92, marks=pytest.mark.slow)],
)
def test_a_wavelength_of_one_rotation_is_given_for_it(
    configured: dict[str, Any], factor: float, tmp_path: Path
) -> None:
    """A wavelength that is configured for another rotation stays."""
    world = small("wrong_header:nanometre", "hexagonal", 3, rotations=3)
    true = world.sample.instrument.wavelength
    headers = {i: {"wavelength": true * (factor if i == 1 else 1)} for i in range(3)}
    if configured:
        headers[0], configured = {"wavelength": 2 * true}, {"wavelengths": {"r0": true}}
    experiment = stated(world, tmp_path, headers=headers, config={"import_scan": configured})
    texts = remedies(experiment.refined().explanation)
    (remedy,) = [text for text in texts if "wavelengths" in text]
    assert f"r1: {true:.4g}" in remedy
    assert ("r0: " in remedy) == bool(configured)
    experiment = replace(experiment, config={})  # the text replaces what is configured
    cured = experiment.with_remedy(remedy).refined()
    assert np.abs(compared(world, cured.data).cell_off).max() < 0.005
    found = [cured.data["rotations"][f"r{i}"]["beam"]["wavelength_A"] for i in range(3)]
    assert found == pytest.approx([true] * 3, rel=2e-3)


@pytest.mark.slow
def test_a_wavelength_in_nm_of_one_rotation_is_a_note(tmp_path: Path) -> None:
    """All of its hkl are multiples of 10, which the lattice of the other rotations indexes."""
    world = small("wrong_header:nanometre", "hexagonal", 3, rotations=3)
    true = world.sample.instrument.wavelength
    headers = {i: {"wavelength": true * (0.1 if i == 1 else 1)} for i in range(3)}
    accepted = stated(world, tmp_path, headers=headers).refined()
    assert "neighbouring peaks of r1 are" in accepted.warnings
    assert "`import_scan: {wavelengths: {r1: ...}}`" in accepted.warnings
    headers[1] = headers[0]
    assert "neighbouring" not in stated(world, tmp_path, headers=headers).refined().warnings


@pytest.mark.slow
def test_an_axis_of_one_rotation_is_given_for_it(tmp_path: Path) -> None:
    """Its images were stored rotated by 90 degrees."""
    world = small("wrong_header:nanometre", "hexagonal", 3, rotations=3)
    headers: dict[int, dict[str, Any]] = {
        i: {"wavelength": world.sample.instrument.wavelength} for i in range(3)
    }
    goniometer = world_scans.rotation_of(world, 1).goniometer
    about = rotation_matrix([0, 0, 1], np.pi / 2)
    headers[1]["goniometer"] = replace(goniometer, axes=goniometer.axes @ about)
    experiment = stated(world, tmp_path, headers=headers)
    refused = experiment.refined()
    assert "the rotation axis turned by 90° about the beam for r1 only" in refused.explanation
    remedy = remedies(refused.explanation)[0]
    assert '"r1:' in remedy
    cured = experiment.with_remedy(remedy).refined()
    assert np.abs(compared(world, cured.data).cell_off).max() < 0.005


@pytest.mark.slow
def test_a_right_header_is_not_blamed(tmp_path: Path) -> None:
    """Six peaks of ten are noise: indexing fails."""
    refused = stated(small("noise", "monoclinic", 5, 0.6), tmp_path).refined()
    assert refused.refusal
    assert refused.explanation == ""


@pytest.mark.slow
def test_a_cell_of_another_crystal_is_told_from_a_wrong_geometry(tmp_path: Path) -> None:
    world = worlds.world("wrong_cell", "tetragonal", 1, 0.08, n_frames=80, mosaic=0.1)
    refused = stated(world, tmp_path).refined()
    assert "the geometry is right" in refused.refusal
    assert refused.explanation == ""


def test_a_short_rotation_does_not_tell_a_wrong_cell_from_a_wrong_beam_centre(
    tmp_path: Path,
) -> None:
    """Six degrees, with a beam centre that is wrong by one lattice row, farther than is tried."""
    world = worlds.world("wrong_header:row", "tetragonal", 15, n_frames=12, mosaic=0.1)
    refused = stated(world, tmp_path).refined()
    assert "the geometry is right" not in refused.refusal
    assert "or the beam centre is wrong" in refused.refusal


@pytest.mark.slow
def test_a_reversed_axis_is_found_where_neighbouring_peaks_are_far_apart() -> None:
    contact = draw(2104, "marccd", "axis reversed")
    rotations, peaks, strength = observed(contact, most=330)
    assert contact.cif is not None
    group = symmetry.space_group(contact.crystal.group)
    searched = SearchedLattice(contact.cif[0], group, 0.25, 0.03, 0.5)
    (one,) = explained(rotations, peaks, strength, searched)
    assert (one.kind, one.hypothesis.reverse, one.count) == ("axis", True, one.of)


def test_a_small_angle_of_the_arm_is_also_a_beam_centre() -> None:
    """Arm and beam centre move the spots alike, apart from the tilt of the detector."""
    world = small("wrong_header:beam", "triclinic", 6, 25.0)
    rotation = world_scans.rotation_of(world, 0)
    peaks = [Peaks.of(world_scans.table_of(world, 0))]
    right = hypotheses.fitted(Hypothesis("as stated"), [rotation], peaks, [30.0])
    assert right is not None
    slow, fast = np.array(right.hypothesis.correction.shift) * rotation.detector.pixel_size
    angles = np.degrees([slow, -fast]) / rotation.detector.distance
    signs = [(x, y) for x in (1, -1) for y in (1, -1)]
    arms = [Correction(arm=(x * angles[0], y * angles[1], 0.0)) for x, y in signs]
    fits = [replace(right, hypothesis=Hypothesis("arm", correction=arm)) for arm in arms]
    shifts = [arm_angles.as_shift(fit, [rotation], peaks) for fit in fits]
    best = max((fit for fit in shifts if fit is not None), key=lambda fit: fit.count)
    assert best.count >= 0.95 * right.count
    assert best.hypothesis.correction.shift == pytest.approx(
        right.hypothesis.correction.shift, abs=1.0
    )
    assert best.hypothesis.correction.arm == (0.0, 0.0, 0.0)
    far = replace(right, hypothesis=Hypothesis("arm", correction=Correction(arm=(0.0, 30.0, 0.0))))
    assert arm_angles.as_shift(far, [rotation], peaks) is None


@pytest.mark.slow
def test_a_crystal_with_longer_axes_than_the_stated_cell_is_found(tmp_path: Path) -> None:
    world = small("noise", "triclinic", 3, 0.05)
    short = stated(world, tmp_path, cell=[4.1, 4.1, 4.1, 90, 90, 90], space_group="P m -3 m")
    refused = short.refined()
    assert "no lattice" in refused.refusal or "not the expected" in refused.refusal
    assert "are indexed in the stated geometry by another lattice" in refused.refusal


@pytest.mark.slow
def test_a_small_error_of_the_scale_is_cured_by_each_of_its_remedies(tmp_path: Path) -> None:
    """The peaks are indexed: the cell differs by more than temperature explains."""
    world = small("wrong_header:distance", "orthorhombic", 2, 0.012)
    experiment = stated(world, tmp_path)
    told = experiment.refined().warnings
    ways = remedies(re.search(r"the cell is 1\.\d+% .* the cell [-\d. ]+", told)[0])
    assert len(ways) == 3
    for way in ways:
        cured = experiment.with_remedy(way).refined()
        assert not cured.refusal, way
        assert "than the cell of the table" not in cured.warnings, way
