"""Experiment lists of DIALS: what DIALS wrote is read, what we write DIALS reads."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dials_program import dials_python, run_dials_python
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cases import assert_same, damaged, points, positions_off, random_model, seeds
from scipy.spatial.transform import Rotation as Turn

from hklflow.base.errors import HklflowError
from hklflow.formats.dials_expt import read_expt, write_expt
from hklflow.geometry import Scan, symmetry
from hklflow.geometry.parameters import HEAD

ORACLE = json.loads((Path(__file__).parents[1] / "oracles/dials_models.json").read_text())


def changed(tmp_path, change, name="one_panel"):
    """An experiment list of DIALS with a change."""
    content = json.loads(json.dumps(ORACLE[name]["expt"]))
    change(content)
    path = tmp_path / "changed.expt"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", ["one_panel", "two_panels", "late_start"])
def test_reads_the_models_of_dials_to_its_predictions(tmp_path, name):
    path = changed(tmp_path, lambda content: None, name)
    (model,) = read_expt(path)
    rows = ORACLE[name]["rows"]
    assert len(rows) > 20
    assert positions_off(model, rows).max() < 1e-6
    group = {"two_panels": "P 61 2 2"}.get(name, "P -1")
    assert symmetry.space_group(model.space_group).number == symmetry.space_group(group).number


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_round_trip(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("expt") / "a.expt"
    model = random_model(seed, raw="/data/x_####.cbf", first_image=7, trusted_range=(0.0, 1e5))
    write_expt(path, [model])
    (back,) = read_expt(path)
    assert_same(model, back)
    kept = ("raw", "first_image", "trusted_range")
    assert [getattr(back, key) for key in kept] == [getattr(model, key) for key in kept]
    own = [symmetry.space_group(m.space_group) for m in (model, back)]
    assert own[0] == own[1]
    assert back.rotation.goniometer.names == model.rotation.goniometer.names
    assert back.rotation.beam.polarization == pytest.approx(model.rotation.beam.polarization)
    assert back.notes == ()


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_round_trip_of_displaced_modules(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("expt") / "a.expt"
    model = random_model(seed, modules=True)
    write_expt(path, [model])
    (back,) = read_expt(path)
    assert_same(model, back)
    np.testing.assert_array_equal(
        back.rotation.detector.modules.rectangles, model.rotation.detector.modules.rectangles
    )


def test_plane_only_where_images_are_read(tmp_path):
    model = random_model(3, modules=True)
    write_expt(tmp_path / "a.expt", [model], modules=False)
    (back,) = read_expt(tmp_path / "a.expt")
    assert back.rotation.detector.modules is None
    plane = model.rotation.detector.plane
    np.testing.assert_allclose(back.rotation.detector.lab(3, 5), plane.lab(3, 5), rtol=1e-12)


def test_refined_head_survives(tmp_path):
    model = random_model(11)
    gonio = model.rotation.goniometer
    gonio = replace(
        gonio,
        names=("omega", "phi", HEAD),
        axes=np.array([[0, 1, 0], [-1, 0, 0], [0.6, 0, 0.8]]),
        angles=np.array([0.3, 0.0, 0.004]),
        scan=1,
    )
    model = replace(model, rotation=replace(model.rotation, goniometer=gonio))
    write_expt(tmp_path / "a.expt", [model])
    (back,) = read_expt(tmp_path / "a.expt")
    assert back.rotation.goniometer.names[-1] == HEAD
    np.testing.assert_allclose(back.rotation.goniometer.angles[[0, 2]], [0.3, 0.004], rtol=1e-12)
    np.testing.assert_allclose(back.rotation.goniometer.axes, gonio.axes, atol=1e-14)
    if model.rotation.scan.step > 0:
        assert back.rotation.goniometer.scan == 1


def test_negative_steps_turn_the_axis(tmp_path):
    model = random_model(5)
    rotation = replace(model.rotation, scan=Scan(0.4, -0.01, 60))
    model = replace(model, rotation=rotation)
    write_expt(tmp_path / "a.expt", [model])
    content = json.loads((tmp_path / "a.expt").read_text())
    start, width = content["scan"][0]["oscillation"]
    assert width == pytest.approx(np.degrees(0.01))
    assert start == pytest.approx(-np.degrees(0.4))
    assert_same(model, read_expt(tmp_path / "a.expt")[0])


def test_several_rotations_share_one_crystal(tmp_path):
    first, second = random_model(1), random_model(2, name="f2")
    turn = Turn.from_rotvec([0.001, -0.002, 0.003]).as_matrix()
    second = replace(second, ub=turn @ first.ub, space_group=first.space_group)
    identifiers = write_expt(tmp_path / "a.expt", [first, second])
    content = json.loads((tmp_path / "a.expt").read_text())
    assert len(content["crystal"]) == 1
    assert len(set(identifiers)) == 2
    back = read_expt(tmp_path / "a.expt")
    for model, read in zip([first, second], back, strict=True):
        at = points(model)
        hkl = model.rotation.hkl(model.ub, *at)
        np.testing.assert_allclose(read.rotation.hkl(read.ub, *at), hkl, atol=1e-9)
    assert back[1].rotation.goniometer.names[-1] == HEAD


@pytest.mark.parametrize("group", ["P 2", "P 1 1 2", "P 1 21 1", "R -3 c :R", "F d -3 m :1"])
def test_setting_of_the_space_group_survives(tmp_path, group):
    """As Hall symbol `P 2` means another axis."""
    write_expt(tmp_path / "a.expt", [replace(random_model(1), space_group=group)])
    (back,) = read_expt(tmp_path / "a.expt")
    assert symmetry.space_group(back.space_group) == symmetry.space_group(group)


def test_same_models_are_one(tmp_path):
    model = random_model(1)
    write_expt(tmp_path / "a.expt", [model, replace(model, name="f2")])
    content = json.loads((tmp_path / "a.expt").read_text())
    assert [len(content[key]) for key in ("detector", "beam", "goniometer")] == [1, 1, 1]
    assert [one["scan"] for one in content["experiment"]] == [0, 1]


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_frame_of_the_laboratory_does_not_matter(tmp_path_factory, seed):
    """A model of DIALS turned as a whole, its beam anywhere, is the same model."""
    turn = Turn.random(random_state=seed).as_matrix()

    def rotate(content):
        for beam in content["beam"]:
            beam["direction"] = (turn @ beam["direction"]).tolist()
            beam["polarization_normal"] = (turn @ beam["polarization_normal"]).tolist()
        for panel in content["detector"][0]["panels"]:
            for key in ("fast_axis", "slow_axis", "origin"):
                panel[key] = (turn @ panel[key]).tolist()
        for goniometer in content["goniometer"]:
            goniometer["axes"] = [(turn @ axis).tolist() for axis in goniometer["axes"]]
        for crystal in content["crystal"]:
            for key in "abc":
                name = f"real_space_{key}"
                crystal[name] = (turn @ crystal[name]).tolist()

    (model,) = read_expt(changed(tmp_path_factory.mktemp("expt"), rotate))
    assert positions_off(model, ORACLE["one_panel"]["rows"]).max() < 1e-6


def test_scan_of_new_dials(tmp_path):
    def renew(content):
        old = content["scan"][0]
        start, width = old.pop("oscillation")
        angles = [start + width * i for i in range(80)]
        properties = {"oscillation": angles, "exposure_time": old.pop("exposure_time")}
        old["properties"] = {**properties, "epochs": old.pop("epochs")}
        content["beam"][0]["__id__"] = "monochromatic"

    (model,) = read_expt(changed(tmp_path, renew))
    assert positions_off(model, ORACLE["one_panel"]["rows"]).max() < 1e-6


def test_scan_varying_crystal_is_told(tmp_path):
    def vary(content):
        content["crystal"][0]["A_at_scan_points"] = [[0.1, 0, 0, 0, 0.1, 0, 0, 0, 0.1]] * 81
        content["beam"][0]["s0_at_scan_points"] = [[0, 0, -2]] * 81

    (model,) = read_expt(changed(tmp_path, vary))
    assert model.ub_at_frames.shape == (81, 3, 3)
    assert "the crystal varies during the scan" in model.notes[0]
    assert "the beam varies during the scan" in model.notes[1]
    assert positions_off(model, ORACLE["one_panel"]["rows"]).max() < 1e-6


def test_parallax_is_told(tmp_path):
    def thick(content):
        panel = content["detector"][0]["panels"][0]
        panel.update(thickness=0.45, mu=1.5)
        panel["px_mm_strategy"] = {"type": "ParallaxCorrectedPxMmStrategy"}

    (model,) = read_expt(changed(tmp_path, thick))
    assert "parallax" in model.notes[0]
    assert model.rotation.detector.sensor_thickness == pytest.approx(0.45e-3)
    assert model.rotation.detector.sensor_attenuation == pytest.approx(1500)


def test_polarization_from_its_plane(tmp_path):
    def vertical(content):
        content["beam"][0]["polarization_normal"] = [1.0, 0.0, 0.0]

    def oblique(content):
        content["beam"][0]["polarization_normal"] = [1.0, 1.0, 0.0]

    (model,) = read_expt(changed(tmp_path, vertical))
    assert model.rotation.beam.polarization == pytest.approx(0.05)
    (model,) = read_expt(changed(tmp_path, oblique))
    assert model.rotation.beam.polarization == pytest.approx(0.5)
    assert "oblique" in model.notes[0]


def _off_plane(content):
    content["detector"][0]["panels"][1]["origin"][2] += 0.5


def _tilted(content):
    """About its centre, which stays on the plane."""
    panel = content["detector"][0]["panels"][1]
    sine = 0.05
    cosine = (1 - sine**2) ** 0.5
    panel["slow_axis"], panel["fast_axis"] = [0.0, cosine, sine], [1.0, 0.0, 0.0]
    panel["origin"] = [11.0, 12.0 * (1 - cosine), -12.0 * sine]


def _still(content):
    content["experiment"][0].pop("scan")


def _uneven(content):
    old = content["scan"][0]
    del old["oscillation"]
    old["properties"] = {"oscillation": [0.01 * i * i for i in range(80)]}


def _no_beam(content):
    content["experiment"][0].pop("beam")


def _wrong_number(content):
    content["experiment"][0]["crystal"] = 3


def _last_of_the_list(content):
    content["experiment"][0]["crystal"] = -1


def _unknown_group(content):
    content["crystal"][0]["space_group_hall_symbol"] = "nonsense"


def _no_end(content):
    content["scan"][0]["image_range"] = [1, 10_000_001]


def _no_pixels(content):
    del content["detector"][0]["panels"][0]["pixel_size"]


def _nothing(content):
    content["experiment"] = []


@pytest.mark.parametrize(
    ("change", "name", "words"),
    [
        (_off_plane, "two_panels", "off one plane"),
        (_tilted, "two_panels", r"up to \S*e-1\d mm off one plane and 1.43 degrees"),
        (_still, "one_panel", "still"),
        (_uneven, "one_panel", "equal steps"),
        (_no_beam, "one_panel", "lacks beam"),
        (_wrong_number, "one_panel", "damaged"),
        (_last_of_the_list, "one_panel", "refers to crystal -1, but the file has 1"),
        (_unknown_group, "one_panel", "unknown space group 'Hall: nonsense'"),
        (_no_end, "one_panel", "10000001 frames, more than 10000000"),
        (_no_pixels, "one_panel", "pixel_size"),
        (_nothing, "one_panel", "no experiment"),
    ],
)
def test_refuses(tmp_path, change, name, words):
    with pytest.raises(HklflowError, match=words):
        read_expt(changed(tmp_path, change, name))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"__id__": "Experi', "JSON"),
        (b"[1]", "not an exp"),
        (b"\xff\xfe", "JSON"),
        (b"", "JSON"),
    ],
)
def test_refuses_other_files(tmp_path, content, words):
    (tmp_path / "a.expt").write_bytes(content)
    with pytest.raises(HklflowError, match=words):
        read_expt(tmp_path / "a.expt")
    with pytest.raises(HklflowError, match="does not exist"):
        read_expt(tmp_path / "b.expt")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(["one_panel", "two_panels"]), st.data())
@pytest.mark.slow
def test_nonsense_is_refused_or_left_aside(tmp_path_factory, name, data):
    """Whatever one value of the file is, there is a sentence or a finite model."""
    path = tmp_path_factory.mktemp("expt") / "a.expt"
    path.write_text(json.dumps(data.draw(damaged(ORACLE[name]["expt"]))))
    try:
        (model,) = read_expt(path)
    except HklflowError:
        return
    hkl = model.rotation.q_lab(90.0, 110.0)
    assert np.isfinite(hkl).all()


def test_refuses_models_with_and_without_crystal(tmp_path):
    with pytest.raises(HklflowError, match="1 of 2"):
        write_expt(tmp_path / "a.expt", [random_model(1), replace(random_model(2), ub=None)])
    with pytest.raises(HklflowError, match="x_####"):
        write_expt(tmp_path / "a.expt", [replace(random_model(1), raw="x_0001.cbf")])


PREDICT = """
import json, sys
from dials.array_family import flex
from dials.algorithms.spot_prediction import ScanStaticReflectionPredictor
from dxtbx.model.experiment_list import ExperimentListFactory
found = []
for path in sys.argv[1:]:
    (e,) = ExperimentListFactory.from_json_file(path, check_format=False)
    rows = []
    reach = 0.35 * e.beam.get_wavelength() / 0.5
    table = ScanStaticReflectionPredictor(e, dmin=reach, margin=0).for_ub(e.crystal.get_A())
    for i in range(len(table)):
        panel = e.detector[table["panel"][i]]
        x, y = panel.millimeter_to_pixel(panel.get_ray_intersection(table["s1"][i]))
        f, s = panel.get_raw_image_offset()
        hkl = table["miller_index"][i]
        rows.append([*hkl, table["xyzcal.px"][i][2], y + s, x + f])
    found.append({"rows": rows, "cell": e.crystal.get_unit_cell().parameters(),
                  "group": e.crystal.get_space_group().type().number()})
json.dump(found, sys.stdout)
"""


@pytest.mark.slow
@pytest.mark.dials
@pytest.mark.parametrize("modules", [False, True])
def test_dials_predicts_as_we_do(tmp_path, modules):
    models = [random_model(seed, modules=modules) for seed in (1, 2, 4, 7, 8, 9)]
    paths = [tmp_path / f"{i}.expt" for i in range(len(models))]
    for path, model in zip(paths, models, strict=True):
        write_expt(path, [model])
    found = json.loads(run_dials_python(PREDICT, *paths))
    compared = 0
    for model, dials in zip(models, found, strict=True):
        np.testing.assert_allclose(dials["cell"], model.crystal[1], rtol=1e-9)
        assert dials["group"] == symmetry.space_group(model.space_group).number
        if not dials["rows"]:
            continue
        rows = np.array(dials["rows"])
        if modules:
            # Predictions in gaps are those of the nearest module for us, of any for DIALS.
            modules_ = model.rotation.detector.modules
            inside = modules_.module_at(rows[:, 4], rows[:, 5]) >= 0
            edge = np.array(
                [modules_.nearest(rows[:, 4] + d, rows[:, 5] + e) for d in (-3, 3) for e in (-3, 3)]
            )
            rows = rows[inside & np.all(edge == edge[0], axis=0)]
        off = positions_off(model, rows)
        # Reflections that graze the Ewald sphere lose digits in both.
        assert np.median(off) < 1e-8
        assert np.percentile(off, 98) < 1e-6
        compared += len(rows)
    assert compared > 200


@pytest.mark.dials
@pytest.mark.slow
def test_dials_shows_what_we_write(tmp_path):
    dials_python()
    write_expt(tmp_path / "a.expt", [random_model(2, modules=True), random_model(2, name="f2")])
    shown = subprocess.run(
        ["dials.show", "a.expt"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert shown.count("Experiment identifier") == 2
    assert shown.count("module_") == 4
