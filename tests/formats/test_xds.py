"""XPARM.XDS: dxtbx's own file, round trips, and the formula of its documentation."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from model_cases import assert_same, points, positions_off, random_model, seeds

from hklflow.base.errors import HklflowError
from hklflow.formats.xds import read_xparm, write_xparm
from hklflow.geometry import symmetry

ORACLE = json.loads((Path(__file__).parents[1] / "oracles/dials_models.json").read_text())


def test_file_of_dxtbx_to_its_printed_digits(tmp_path):
    path = tmp_path / "XPARM.XDS"
    path.write_text(ORACLE["xparm"])
    model = read_xparm(path, n_frames=80)
    off = positions_off(model, ORACLE["one_panel"]["rows"])
    # 6 decimals of the beam's direction and a distance of 60 mm: 5e-4 of a pixel.
    assert off.max() < 1e-3
    np.testing.assert_allclose(model.crystal[1], [5.1, 6.3, 7.9, 82, 97, 105], atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(seeds)
def test_round_trip(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("xds") / "XPARM.XDS"
    model = random_model(seed, first_image=5)
    notes = write_xparm(path, model)
    assert ("XDS has one axis" in " ".join(notes)) == (len(model.rotation.goniometer.names) > 1)
    back = read_xparm(path, n_frames=60)
    assert_same(model, back)
    assert back.first_image == 5
    own = [symmetry.space_group(m.space_group).number for m in (model, back)]
    assert own[0] == own[1]


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_round_trip_of_displaced_modules(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("xds") / "XPARM.XDS"
    model = random_model(seed, modules=True)
    write_xparm(path, model)
    back = read_xparm(path, n_frames=60)
    assert_same(model, back)
    assert len(back.rotation.detector.modules) == 4


@pytest.mark.parametrize("modules", [False, True])
def test_places_of_pixels_are_those_of_the_documented_formula(tmp_path, modules):
    """By the numbers of the file alone: pixel x, y of XDS is ours + 0.5, lengths in mm."""
    model = random_model(4, modules=modules)
    path = tmp_path / "XPARM.XDS"
    write_xparm(path, model)
    rows = [np.array(line.split(), float) for line in path.read_text().splitlines()[1:]]
    (_, start, step, *axis), (wavelength, *beam) = rows[:2]
    cell_axes = np.array(rows[3:6])
    _, _, _, qx, qy = rows[6]
    orgx, orgy, distance = rows[7]
    ed = np.array(rows[8:11]).T
    frame, slow, fast = points(model, n=60)
    hkl = model.rotation.hkl(model.ub, frame, slow, fast)
    seen = 0
    for box, place in zip(rows[11::2], rows[12::2], strict=True):
        eds_x, eds_y = place[3:6], place[6:]
        eds_z = np.cross(eds_x, eds_y)
        for i in range(len(frame)):
            x, y = fast[i] + 0.5, slow[i] + 0.5
            if not (box[1] - 0.5 <= x < box[2] + 0.5 and box[3] - 0.5 <= y < box[4] + 0.5):
                continue
            seen += 1
            local = qx * (x - place[0]) * eds_x + qy * (y - place[1]) * eds_y + place[2] * eds_z
            local += [-qx * orgx, -qy * orgy, distance]
            ray = ed @ local
            s = ray / np.linalg.norm(ray) / wavelength - np.array(beam)
            angle = np.radians(start + frame[i] * step)
            e = np.array(axis)
            back = (
                s * np.cos(angle)
                - np.cross(e, s) * np.sin(angle)
                + e * (e @ s) * (1 - np.cos(angle))
            )
            np.testing.assert_allclose(cell_axes @ back, hkl[i], atol=1e-9)
    assert seen == len(frame)


def test_reads_digits_of_xds(tmp_path):
    """Rounded as XDS prints: the orientation to what its digits hold."""
    model = random_model(6)
    path = tmp_path / "XPARM.XDS"
    write_xparm(path, model)
    lines = path.read_text().splitlines()
    rounded = lines[:1]
    for line in lines[1:]:
        words = line.split()
        rounded.append(" ".join(f"{float(w):.6f}" if "." in w else w for w in words))
    path.write_text("\n".join(rounded))
    back = read_xparm(path, n_frames=60)
    assert_same(model, back, degrees=2e-4, relative=2e-6)
    with pytest.raises(AssertionError):
        assert_same(model, back, degrees=1e-9)


def test_input_file_beside_tells_the_images(tmp_path):
    model = random_model(6, first_image=3)
    write_xparm(tmp_path / "XPARM.XDS", model)
    assert "number of images" in read_xparm(tmp_path / "XPARM.XDS").notes[0]
    (tmp_path / "XDS.INP").write_text(
        "JOB= IDXREF ! DATA_RANGE= 1 2\n"
        " DATA_RANGE= 13 40  STARTING_ANGLE= 0\n"
        "NAME_TEMPLATE_OF_DATA_FRAMES= ../images/x_????.cbf CBF\n"
        "FRACTION_OF_POLARIZATION= 0.98\nPOLARIZATION_PLANE_NORMAL= 1 0 0\n"
    )
    back = read_xparm(tmp_path / "XPARM.XDS")
    assert (back.first_image, back.rotation.scan.n_frames) == (13, 28)
    assert back.raw == "../images/x_####.cbf"
    assert back.rotation.beam.polarization == pytest.approx(0.02)
    scan = model.rotation.scan
    assert back.rotation.scan.start * np.sign(scan.step) == pytest.approx(scan.angle(10))
    assert back.notes == ()


def test_settings_that_a_number_does_not_tell_are_noted(tmp_path):
    model = replace(random_model(6), space_group="P 1 1 2")
    assert "by number only" in " ".join(write_xparm(tmp_path / "XPARM.XDS", model))


@pytest.mark.parametrize("row", range(1, 14))
def test_missing_lines_are_refused(tmp_path, row):
    path = tmp_path / "XPARM.XDS"
    lines = ORACLE["xparm"].splitlines()
    path.write_text("\n".join(lines[:row] + lines[row + 1 :]))
    with pytest.raises(HklflowError, match=r"truncated or damaged"):
        read_xparm(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("XPARM.XDS", "OTHER"), "does not begin"),
        (lambda text: text.replace("0.350000", "nan"), "not finite"),
        (lambda text: text.replace("0.350000", "abc"), "not numeric"),
        (lambda text: text.replace("1       220       180  ", "9999999 220 180"), "1e.07 segments"),
        (lambda text: text.replace("0.110000    0.110000", "-0.11 0.11"), "damaged"),
    ],
)
def test_damage_is_refused(tmp_path, change, words):
    path = tmp_path / "XPARM.XDS"
    path.write_text(change(ORACLE["xparm"]))
    with pytest.raises(HklflowError, match=words):
        read_xparm(path)
    with pytest.raises(HklflowError, match="does not exist"):
        read_xparm(tmp_path / "GXPARM.XDS")


def test_segments_off_the_plane_are_refused(tmp_path):
    path = tmp_path / "XPARM.XDS"
    write_xparm(path, random_model(4, modules=True))
    lines = path.read_text().splitlines()
    words = lines[13].split()
    words[2] = "0.4"
    path.write_text("\n".join([*lines[:13], " ".join(words), *lines[14:]]))
    with pytest.raises(HklflowError, match="off one plane"):
        read_xparm(path)


def test_models_that_xds_cannot_hold_are_refused(tmp_path):
    with pytest.raises(HklflowError, match="no crystal"):
        write_xparm(tmp_path / "a", replace(random_model(1), ub=None))
    with pytest.raises(HklflowError, match="no space group"):
        write_xparm(tmp_path / "a", replace(random_model(1), space_group=None))
