"""Displacements of modules against those that made the data."""

import json
from dataclasses import replace

import numpy as np
import pytest
from tests.truth import displaced_modules as made
from tests.truth.defaults import limits

from hklflow.base.errors import HklflowError
from hklflow.calibration.module_data import Bragg, Rings
from hklflow.calibration.modules import (
    BraggPeaks,
    RingImage,
    bragg_peaks,
    detector_modules,
    fit_modules,
    modules_from_gaps,
    ring_image,
)
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan, symmetry
from hklflow.geometry.modules import Modules
from hklflow.orientation.refinement import Peaks, Refined, refine
from hklflow.simulation.frames import (
    CrystalModel,
    DetectorModel,
    GoniometerModel,
    ScanModel,
    Simulation,
)
from hklflow.simulation.powder import calibrant_rings, powder_image

ONE_M = made.pilatus(5, 2)
QUIET = 1e-4  # pixels of noise where laws are tested, not errors


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def images_of(
    shift: np.ndarray,
    angle: np.ndarray,
    seed: int = 0,
    places: tuple = made.FOUR,
    noise: float = 0.1,
    boxes: np.ndarray = ONE_M,
) -> list[RingImage]:
    return [
        made.ring_image(setting, shift, angle, 100 * seed + i, noise, 2.0)
        for i, setting in enumerate(made.settings(boxes, places))
    ]


def test_four_images_give_shifts_and_rotations_with_their_errors() -> None:
    pulls, turn_pulls = [], []
    for seed in range(6):
        shift, angle = made.truth(ONE_M, seed, 0.28, 1e-3)
        fit = fit_modules(Modules.ideal(ONE_M), images_of(shift, angle, seed))
        off = fit.modules.shift - shift
        assert rms(shift) > 0.15
        assert rms(off) < 0.03
        assert rms(fit.modules.rotation - angle) < 1e-4 < 5e-4 < rms(angle)
        pulls.append(off / fit.shift_sigma)
        turn_pulls.append((fit.modules.rotation - angle) / fit.rotation_sigma)
        assert 0.9 < fit.chi2 < 1.1
        assert fit.condition < 1e3
    assert 0.8 < rms(np.array(pulls)) < 1.2
    assert 0.8 < rms(np.array(turn_pulls)) < 1.2


def test_bragg_spots_give_shifts_and_leave_rotations_alone() -> None:
    boxes = made.pilatus(8, 6)
    pulls = []
    for seed in range(5):
        shift, angle = made.truth(boxes, seed, 0.28, 0.0)
        at = made.settings(boxes, made.FOUR[:1])[0]
        fit = fit_modules(Modules.ideal(boxes), bragg=[made.bragg(at, shift, angle, 714, seed)])
        assert rms(shift) > 0.15
        assert rms(fit.modules.shift - shift) < 0.06
        assert not fit.modules.rotation.any()
        assert not fit.rotation_sigma.any()
        pulls.append((fit.modules.shift - shift)[fit.shift_sigma > 0])
        pulls[-1] = pulls[-1] / fit.shift_sigma[fit.shift_sigma > 0]
    assert 0.8 < rms(np.concatenate(pulls)) < 1.2


def test_many_bragg_spots_give_rotations_and_join_with_rings() -> None:
    boxes = made.pilatus(3, 2)
    shift, angle = made.truth(boxes, 3, 0.28, 1e-3)
    at = made.settings(boxes, made.FOUR[:1])[0]
    spots = made.bragg(at, shift, angle, 1800, 3)
    alone = fit_modules(Modules.ideal(boxes), bragg=[spots])
    assert np.all(alone.rotation_sigma > 0)
    assert rms((alone.modules.rotation - angle) / alone.rotation_sigma) < 2
    assert rms(alone.modules.rotation - angle) < 0.2 * rms(angle)
    # One powder image is welcome where Bragg peaks say what is tangential.
    joint = fit_modules(
        Modules.ideal(boxes),
        images_of(shift, angle, 3, made.FOUR[:1], boxes=boxes),
        [spots],
    )
    assert np.all(joint.shift_sigma < alone.shift_sigma)
    assert rms((joint.modules.shift - shift) / joint.shift_sigma) < 2


@pytest.mark.parametrize("places", [made.FOUR[:1], made.FOUR_DISTANCES])
@pytest.mark.parametrize("turn", [0.0, 1e-3])
@pytest.mark.parametrize("levels", [("module",), ("detector", "module")])
def test_one_beam_centre_is_refused(places: tuple, turn: float, levels: tuple[str, ...]) -> None:
    shift, angle = made.truth(ONE_M, 1, 0.28, turn)
    held = 50 if turn else 10**9
    with pytest.raises(HklflowError, match=r"condition number \d\.\de\+\d\d .*displaced beam cent"):
        fit_modules(
            Modules.ideal(ONE_M),
            images_of(shift, angle, places=places),
            levels=levels,
            min_rotation_points=held,
        )
    two = images_of(shift, angle, places=made.FOUR[:2])
    fit = fit_modules(Modules.ideal(ONE_M), two, min_rotation_points=held)
    assert rms(fit.modules.shift - shift) < 0.05


def collective(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Shifts and rotations of all modules together."""
    at = np.stack([ONE_M[:, 0] + ONE_M[:, 1], ONE_M[:, 2] + ONE_M[:, 3]], axis=1) / 2
    at = at - at.mean(axis=0)
    none = np.zeros(len(ONE_M))
    if kind == "shift":
        return np.tile([0.7, -0.4], (len(ONE_M), 1)), none
    if kind == "rotation":
        return 1e-3 * np.stack([-at[:, 1], at[:, 0]], axis=1), none + 1e-3
    return 1e-3 * at, none


@pytest.mark.parametrize("kind", ["shift", "rotation", "expansion"])
def test_where_the_fit_starts_along_the_gauge_does_not_matter(kind: str) -> None:
    shift, angle = made.truth(ONE_M, 2, 0.28, 1e-3)
    images = images_of(shift, angle, noise=QUIET)
    more, turned = collective(kind)
    start = Modules(ONE_M, more, turned)
    plain = fit_modules(Modules.ideal(ONE_M), images)
    found = fit_modules(start, images)
    assert rms(more) > 0.2
    assert plain.modules.shift == pytest.approx(shift, abs=1e-3)
    assert found.modules.shift == pytest.approx(plain.modules.shift, abs=1e-5)
    assert found.modules.rotation == pytest.approx(plain.modules.rotation, abs=1e-7)


@pytest.mark.parametrize("kind", ["shift", "rotation"])
def test_what_all_modules_do_together_is_the_detectors(kind: str) -> None:
    shift, angle = made.truth(ONE_M, 2, 0.28, 1e-3)
    more, turned = collective(kind)
    fit = fit_modules(Modules.ideal(ONE_M), images_of(shift + more, angle + turned, noise=QUIET))
    assert fit.modules.shift == pytest.approx(shift, abs=2e-3)
    assert fit.modules.rotation == pytest.approx(angle, abs=1e-5)
    if kind == "shift":
        for detector, setting in zip(fit.detectors, made.settings(ONE_M, made.FOUR), strict=True):
            moved = np.stack([setting.slow, setting.fast]) @ (detector.origin - setting.origin)
            assert moved / made.PIXEL == pytest.approx(more[0], abs=0.01)


def test_each_level_works_alone() -> None:
    shift, angle = made.truth(ONE_M, 4, 0.28, 1e-3)
    true = Modules(ONE_M, shift, angle)
    settings = made.settings(ONE_M, made.FOUR)
    fit = fit_modules(true, images_of(shift, angle), levels=("detector",))
    assert np.array_equal(fit.modules.shift, shift)
    assert np.array_equal(fit.modules.rotation, angle)
    assert not fit.shift_sigma.any()
    for detector, setting, image in zip(
        fit.detectors, settings, images_of(shift, angle), strict=True
    ):
        beam = [d.intersect([0.0, 0.0, 1.0]) for d in (detector.plane, setting.detector())]
        assert np.ravel(beam[0]) == pytest.approx(np.ravel(beam[1]), abs=0.05)
        assert detector.distance == pytest.approx(setting.detector().distance, abs=1e-5)
        assert np.linalg.norm(image.detector.origin - setting.origin) > 5e-5

    images = [
        replace(image, detector=setting.detector())
        for image, setting in zip(images_of(shift, angle), settings, strict=True)
    ]
    fit = fit_modules(Modules.ideal(ONE_M), images, levels=("module",))
    assert rms(fit.modules.shift - shift) < 0.03
    for detector, setting in zip(fit.detectors, settings, strict=True):
        assert np.array_equal(detector.origin, setting.origin)


def test_outliers_are_left_out() -> None:
    shift, angle = made.truth(ONE_M, 5, 0.28, 1e-3)
    rng = np.random.default_rng(5)
    images, n_bad = [], 0
    for image in images_of(shift, angle):
        bad = rng.random(len(image.slow)) < 0.05
        n_bad += int(bad.sum())
        off = np.where(bad, rng.choice([-1, 1], bad.size) * rng.uniform(2, 6, bad.size), 0)
        images.append(replace(image, two_theta=image.two_theta + off * 10 * image.sigma))
    fit = fit_modules(Modules.ideal(ONE_M), images)
    assert n_bad <= fit.rejected < 1.2 * n_bad + 10
    assert rms(fit.modules.shift - shift) < 0.03


def test_modules_without_points_are_held_and_told() -> None:
    shift, angle = made.truth(ONE_M, 6, 0.28, 0.0)
    start = Modules(ONE_M, np.tile([0.1, 0.2], (10, 1)), np.zeros(10))
    at = made.settings(ONE_M, made.FOUR[:1])[0]
    peaks = made.bragg(at, shift, angle, 2000, 6)
    keep = start.module_at(peaks.slow, peaks.fast) != 7
    kept = [getattr(peaks, name)[keep] for name in list(BraggPeaks.__dataclass_fields__)[1:]]
    kept[0][0] = 200.0  # in a gap
    fit = fit_modules(start, bragg=[BraggPeaks(peaks.detector, *kept)])
    assert fit.modules.shift[7].tolist() == [0.1, 0.2]
    row = fit.table[7]
    assert (row.points, row.rms_before_px, row.radial_sigma_um) == (0, None, 0.0)
    assert fit.rejected == 1
    assert "NaN" not in json.dumps(fit.metrics())


def test_the_table_speaks_of_radius_and_tangent() -> None:
    shift, angle = made.truth(ONE_M, 7, 0.28, 1e-3)
    at = made.settings(ONE_M, made.FOUR[:1])[0]
    fit = fit_modules(Modules.ideal(ONE_M), bragg=[made.bragg(at, shift, angle, 3000, 7)])
    assert [row.module for row in fit.table] == list(range(10))
    for row, box in zip(fit.table, ONE_M, strict=True):
        place = np.array([box[0] + box[1], box[2] + box[3]]) / 2
        outward = place - np.ravel(at.detector().intersect([0.0, 0.0, 1.0]))
        outward /= np.linalg.norm(outward)
        across = np.array([-outward[1], outward[0]])
        um = 1e6 * made.PIXEL * fit.modules.shift[row.module]
        # Tilts of 3 mrad turn the direction in which 2θ grows a little.
        assert row.radial_um == pytest.approx(um @ outward, abs=0.5)
        assert row.tangential_um == pytest.approx(um @ across, abs=0.5)
        assert row.rotation_mrad == pytest.approx(1e3 * fit.modules.rotation[row.module])
        assert row.rms_after_px == pytest.approx(0.1, rel=0.2)
        assert row.rms_before_px is not None
        assert row.rms_before_px > 0.2
        assert row.points > 200


def test_from_a_refinement_and_back() -> None:
    """Spots of the simulator's displaced modules; the second refinement fits to the noise."""
    boxes = made.pilatus(3, 2)
    shape, pixel, foot = (619, 981), made.PIXEL, (300.0, 470.0)
    shift = made.in_gauge(boxes, np.random.default_rng(11).normal(0, 0.4, (6, 2)), np.zeros(6))
    rng, columns = np.random.default_rng(12), []
    for box, by in zip(boxes, shift, strict=True):
        simulation = Simulation(
            DetectorModel(shape, 0.12, (foot[0] - by[0], foot[1] - by[1]), (pixel, pixel)),
            GoniometerModel(),
            ScanModel(0.0, np.radians(0.5), 150, 0.5),
            CrystalModel((7.1, 7.1, 7.1, 90.0, 90.0, 90.0), (0.4, -1.2, 0.7), scale=1.0, b_iso=0.1),
        )
        truth = simulation.true_peaks()
        at = np.stack([truth.frame, truth.slow, truth.fast], axis=1)
        on = (at[:, 1] > box[0]) & (at[:, 1] < box[1]) & (at[:, 2] > box[2]) & (at[:, 2] < box[3])
        columns.append(at[on & (truth.zeta > 0.1)])
    seen = rng.permutation(np.concatenate(columns))
    seen = seen + rng.normal(0, 0.1, seen.shape)
    # As if measured in two scans.
    parts = (seen[: len(seen) // 3], seen[len(seen) // 3 :])
    peaks = [Peaks(*part.T, *np.full((3, len(part)), 0.01)) for part in parts]
    header = simulation.raw_header()
    detector = Detector(shape, (pixel, pixel), header["origin"], header["slow"], header["fast"])
    rotation = Rotation(
        Beam(0.5),
        detector,
        Goniometer(header["axis_names"], header["axes"], header["angles"], header["scan_axis"]),
        Scan(header["start"], header["step"], 150),
    )

    def refined(detector: Detector) -> Refined:
        free = ("cell", "orientation", "detector_x", "detector_y")
        start = [replace(rotation, detector=detector)] * 2
        return refine(
            start, peaks, simulation.ub, symmetry.space_group("P23"), free=free, limits=limits()
        )

    first = refined(detector)
    lists = [bragg_peaks(r, first.ub, p) for r, p in zip(first.rotations, peaks, strict=True)]
    fit = fit_modules(Modules.ideal(boxes), bragg=lists)
    assert fit.points > 300
    assert rms(shift) > 0.2
    assert rms(fit.modules.shift - shift) < 0.05
    second = refined(replace(detector, modules=fit.modules))
    assert first.rmsd[:2].max() > 0.25
    assert second.rmsd[:2].max() < 0.11


def test_derivatives_are_those_of_the_residuals() -> None:
    aspect, rng = 0.7, np.random.default_rng(10)
    shift, turn = rng.normal(0, 0.5, (10, 2)), rng.normal(0, 0.02, 10)
    start = Modules(ONE_M, shift, turn, aspect)
    detector = made.settings(ONE_M, made.FOUR)[1].detector()
    detector = replace(detector, pixel_size=(made.PIXEL, aspect * made.PIXEL))
    detector = detector.moved([0, 0, 0], [0.1, 0.2, 0.3])
    slow, fast = rng.uniform(0, 1, (2, 400)) * np.array([[1043], [981]])
    slow, fast = (a[start.module_at(slow, fast) >= 0] for a in (slow, fast))
    one = np.ones(len(slow))
    # An image leaves its place (3) and two tilts free; Bragg peaks shift (2), turn and distance.
    data = (
        (lambda: Rings(RingImage(detector, slow, fast, one, 1e-3 * one), start), 5),
        (lambda: Bragg(BraggPeaks(detector, slow, fast, one, one, one, 2 * one), start), 4),
    )
    for make, free in data:
        rows = make().rows()
        n = make().free
        assert n == rows.by_detector.shape[1] == free
        assert len(np.unique(make().number)) == 10

        def change(by: np.ndarray, step: np.ndarray, make=make) -> np.ndarray:
            found = []
            for sign in (1, -1):
                datum = make()
                moved = Modules(ONE_M, shift + sign * by[:2], turn + sign * by[2], aspect)
                datum.move(moved, sign * step)
                found.append(datum.rows().residual)
            return (found[0] - found[1]) / 2

        for i, size in enumerate((1e-3, 1e-3, 1e-5)):
            expected = change(size * np.eye(3)[i], np.zeros(n)) / size
            assert rows.by_module[:, i] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        for i in range(n):
            expected = change(np.zeros(3), 1e-6 * np.eye(n)[i]) / 1e-6
            assert rows.by_detector[:, i] == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_pixels_need_not_be_square() -> None:
    aspect, size = 0.7, np.array([1.0, 0.7])
    rng = np.random.default_rng(9)
    angle = rng.normal(0, 1e-3, len(ONE_M))
    scaled = ONE_M * np.array([1, 1, aspect, aspect])
    shift = made.in_gauge(scaled, rng.normal(0, 0.3, (len(ONE_M), 2)), angle) / size
    true = Modules(ONE_M, shift, angle, aspect)
    rings, chi = (
        a.ravel() for a in np.meshgrid(made.two_theta(), np.radians(np.arange(0, 360, 2)))
    )
    rays = np.stack([np.sin(rings) * np.cos(chi), np.sin(rings) * np.sin(chi), np.cos(rings)], 1)
    images = []
    for setting in made.settings(ONE_M, made.FOUR):
        square = setting.detector()
        detector = replace(square, pixel_size=(made.PIXEL, aspect * made.PIXEL))
        slow, fast = replace(detector, modules=true).intersect(rays)
        on = true.module_at(slow, fast) >= 0
        images.append(
            RingImage(detector, slow[on], fast[on], rings[on], np.full(int(on.sum()), 1e-6))
        )
    plane = rng.uniform(0, [1043, 981], (6000, 2))
    image = np.stack(true.undisplaced(*plane.T), axis=1)
    on = true.module_at(*image.T) >= 0
    one = np.full(int(on.sum()), 0.01)
    peaks = BraggPeaks(images[0].detector, *image[on].T, *(image - plane)[on].T, one, one)
    for data in ({"images": images}, {"bragg": [peaks]}):
        fit = fit_modules(Modules.ideal(ONE_M, aspect), **data)
        assert np.all(fit.rotation_sigma > 0)
        assert fit.modules.shift == pytest.approx(shift, abs=2e-3)
        assert fit.modules.rotation == pytest.approx(angle, abs=1e-5)


def test_bad_requests_are_refused() -> None:
    boxes = made.pilatus(2, 1)
    shift, angle = np.zeros((2, 2)), np.zeros(2)
    images = images_of(shift, angle, boxes=boxes)
    with pytest.raises(HklflowError, match="2 modules have 6 points or more"):
        fit_modules(Modules.ideal(boxes), images)
    for levels in ((), ("pixel",)):
        with pytest.raises(HklflowError, match="levels are detector and module"):
            fit_modules(Modules.ideal(boxes), images, levels=levels)
    with pytest.raises(HklflowError, match="from 0 powder images"):
        fit_modules(Modules.ideal(boxes))


def test_ring_points_of_images_with_counting_noise() -> None:
    """From pixels to shifts; the image of each module is made with the module's own geometry."""
    shape, pixel, wavelength = (262, 254), 172e-6, 0.35
    boxes = np.array(
        [[0, 125, 0, 124], [0, 125, 130, 254], [137, 262, 0, 124], [137, 262, 130, 254]]
    )
    shift = made.in_gauge(boxes, np.random.default_rng(8).normal(0, 0.4, (4, 2)), np.zeros(4))
    spacings, _ = calibrant_rings("LaB6", 0.7)
    rings = np.sort(2 * np.arcsin(wavelength / 2 / spacings))
    start = Modules.ideal(boxes)
    found = []
    for i, centre in enumerate(((131.0, 127.0), (60.0, 50.0), (210.0, 80.0), (70.0, 215.0))):
        image, bad = np.zeros(shape), np.ones(shape, bool)
        for (s0, s1, f0, f1), by in zip(boxes, shift, strict=True):
            model = DetectorModel(
                shape, 0.11, (centre[0] - by[0], centre[1] - by[1]), (pixel, pixel)
            )
            whole = powder_image(
                model, wavelength, "LaB6", ring_width=1.3 * pixel / 0.11, seed=i, polarization=None
            )
            image[s0:s1, f0:f1] = whole[s0:s1, f0:f1]
            bad[s0:s1, f0:f1] = False
        slow, fast = np.array([0.0, -1.0, 0.0]), np.array([-1.0, 0.0, 0.0])
        origin = np.array([0, 0, 0.11]) - pixel * (centre[0] * slow + centre[1] * fast)
        detector = Detector(shape, (pixel, pixel), origin, slow, fast, modules=start)
        points = ring_image(image, bad, detector, rings)
        assert np.all(start.module_at(points.slow, points.fast) >= 0)
        found.append(points)
    fit = fit_modules(start, found)
    assert fit.points > 300
    assert rms(shift) > 0.15
    assert rms(fit.modules.shift - shift) < 0.03
    with pytest.raises(ValueError, match="no modules"):
        ring_image(image, bad, detector.plane, rings)


def test_modules_between_gaps() -> None:
    two_m = detector_modules("Pilatus CdTe 2M")
    # 24 modules of two sensors each.
    assert len(two_m) == 48
    assert two_m.rectangles[:2].tolist() == [[0, 195, 0, 242], [0, 195, 245, 487]]
    assert len(detector_modules("Eiger 4M")) == 8
    assert detector_modules("Pilatus 1M").rectangles.tolist() == ONE_M.tolist()

    # Not on a grid; with a dead line, a dead module and a masked rim.
    bad = np.zeros((200, 150), bool)
    bad[:3] = bad[100:104] = True
    bad[3:100, 60:64] = bad[104:, 90:94] = True
    bad[50] = bad[104:, 94:] = True
    assert modules_from_gaps(bad).tolist() == [
        [3, 100, 0, 60],
        [3, 100, 64, 150],
        [104, 200, 0, 90],
    ]
    with pytest.raises(HklflowError, match="leaves no module"):
        modules_from_gaps(np.ones((50, 50), bool))
    with pytest.raises(HklflowError, match="pyFAI does not know"):
        detector_modules("Polaroid")
    with pytest.raises(HklflowError, match="knows no gaps"):
        detector_modules("Perkin")
