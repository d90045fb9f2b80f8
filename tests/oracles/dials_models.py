"""Make dials_models.json: models as DIALS writes them, and where it predicts reflections.

Run with a Python that imports dxtbx and DIALS 3.12 or later:

    /usr/bin/python3 tests/oracles/dials_models.py > tests/oracles/dials_models.json

Nothing of hklflow goes in. Three experiments: one panel and three goniometer axes; two panels
displaced in the plane of a tilted frame, a beam off the axis, a goniometer with fixed and
setting rotations; and a first image other than 1. Each has the text of the experiment list and
the rows h, k, l, frame, slow, fast in pixels of the image. The first has XPARM.XDS too.
"""

import json
import sys
from math import cos, sin

from cctbx import sgtbx, uctbx
from dials.algorithms.spot_prediction import ScanStaticReflectionPredictor
from dials.array_family import flex
from dxtbx.model import (
    Beam,
    Crystal,
    Detector,
    Experiment,
    ExperimentList,
    Goniometer,
    MultiAxisGoniometer,
    Scan,
    SimplePxMmStrategy,
)
from dxtbx.serialize.xds import to_xds
from scitbx import matrix


def turn(*vector):
    v = matrix.col(vector)
    return v.normalize().axis_and_angle_as_r3_rotation_matrix(v.length())


def crystal(cell, symbol, orientation):
    fractional = matrix.sqr(uctbx.unit_cell(cell).fractionalization_matrix())
    found = Crystal((1, 0, 0), (0, 1, 0), (0, 0, 1), sgtbx.space_group_info(symbol).group())
    found.set_A(turn(*orientation) * fractional.transpose())
    return found


def add_panel(parent, name, fast, slow, origin, size, offset, pixel=(0.1, 0.12)):
    panel = parent.add_panel()
    panel.set_name(name)
    panel.set_local_frame(tuple(fast), tuple(slow), tuple(origin))
    panel.set_pixel_size(pixel)
    panel.set_image_size(size)
    panel.set_raw_image_offset(offset)
    panel.set_trusted_range((0, 65535))
    panel.set_px_mm_strategy(SimplePxMmStrategy())


def scan(first, n, start, width):
    return Scan((first, first + n - 1), (start, width), [0.5] * n, [0.5 * i for i in range(n)])


def one_panel():
    t = turn(0.1, -0.2, 0.15)
    detector = Detector()
    add_panel(
        detector,
        "p",
        t * matrix.col((1, 0, 0)),
        t * matrix.col((0, -1, 0)),
        (-9, 11, -60),
        (220, 180),
        (0, 0),
        (0.11, 0.11),  # dxtbx 3.12 writes ORGY of XPARM.XDS for square pixels only
    )
    goniometer = MultiAxisGoniometer(
        flex.vec3_double([(1, 0.02, 0), (0.1, 0.9, 0.2), (0, -0.3, 1)]),
        flex.double([10.0, 20.0, -35.0]),
        flex.std_string(["phi", "chi", "omega"]),
        0,
    )
    beam = Beam((0, 0, 1), 0.35)
    beam.set_polarization_fraction(0.95)
    return Experiment(
        beam=beam,
        detector=detector,
        goniometer=goniometer,
        scan=scan(1, 80, 15.0, 1.0),
        crystal=crystal((5.1, 6.3, 7.9, 82, 97, 105), "P -1", (0.7, -0.4, 1.1)),
    )


def two_panels():
    detector = Detector()
    root = detector.hierarchy()
    t = turn(0.05, 0.1, -0.08)
    root.set_frame(
        tuple(t * matrix.col((1, 0, 0))), tuple(t * matrix.col((0, -1, 0))), (-11, 12, -55)
    )
    a = 0.004
    add_panel(root, "a", (1, 0, 0), (0, 1, 0), (0, 0, 0), (100, 200), (0, 0))
    add_panel(
        root, "b", (cos(a), sin(a), 0), (-sin(a), cos(a), 0), (11.13, 0.07, 0), (100, 200), (110, 0)
    )
    goniometer = Goniometer(
        (1, 0.01, -0.02), turn(0.1, 0.3, -0.2).elems, turn(-0.02, 0.05, 0.03).elems
    )
    return Experiment(
        beam=Beam((0.02, -0.03, 1), 0.4),
        detector=detector,
        goniometer=goniometer,
        scan=scan(1, 90, -20.0, 0.7),
        crystal=crystal((6.1, 6.1, 9.4, 90, 90, 120), "P 61 2 2", (-0.5, 0.8, 0.3)),
    )


def late_start():
    experiment = one_panel()
    experiment.scan = scan(21, 40, 35.0, 1.0)
    return experiment


class Sequence:
    """What dxtbx's writer of XPARM.XDS asks."""

    def __init__(self, experiment):
        self.experiment = experiment

    def get_beam(self):
        return self.experiment.beam

    def get_detector(self):
        return self.experiment.detector

    def get_goniometer(self):
        return self.experiment.goniometer

    def get_scan(self):
        return self.experiment.scan


def rows(experiment):
    predictor = ScanStaticReflectionPredictor(experiment, dmin=0.8, margin=1)
    predicted = predictor.for_ub(experiment.crystal.get_A())
    found = []
    for i in range(len(predicted)):
        number = predicted["panel"][i]
        panel = experiment.detector[number]
        x, y = panel.get_ray_intersection(predicted["s1"][i])
        fast, slow = panel.millimeter_to_pixel((x, y))
        offset = panel.get_raw_image_offset()
        z = predicted["xyzcal.px"][i][2]
        position = [z, slow + offset[1], fast + offset[0]]
        found.append([*predicted["miller_index"][i], *(round(p, 9) for p in position)])
    return found


def main():
    made = {}
    for make in (one_panel, two_panels, late_start):
        experiment = make()
        text = ExperimentList([experiment]).as_json()
        made[make.__name__] = {"expt": json.loads(text), "rows": rows(experiment)}
    first = one_panel()
    # XDS has one axis: the other rotations go into the crystal.
    inner = matrix.sqr(first.goniometer.get_fixed_rotation())
    outer = matrix.sqr(first.goniometer.get_setting_rotation())
    axes = [outer * inner * matrix.col(v) for v in first.crystal.get_real_space_vectors()]
    made["xparm"] = to_xds(Sequence(first)).xparm_xds(*axes, 2)
    json.dump(made, sys.stdout)
    print()


if __name__ == "__main__":
    main()
