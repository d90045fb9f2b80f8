"""The table of instruments against dxtbx, which read the same headers (tests/oracles)."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation as Turn
from tests.oracles import dials_headers

from hklflow.base.errors import HklflowError
from hklflow.formats.instruments import INSTRUMENTS, date_of, named
from hklflow.formats.mini_cbf import read_cbf
from hklflow.formats.smv import read_smv
from hklflow.formats.text_headers import NOTHING_STATED, Choices

ORACLE = json.loads((Path(dials_headers.HERE) / "dials_headers.json").read_text())
FROM_DXTBX = np.diag([-1.0, 1.0, -1.0])
GENERIC = {"FormatCBFMiniPilatus", "FormatCBFMiniEiger"}
# The installed dxtbx has no class of these; its later classes have this axis (in its frame).
LATER = {
    "CHESS-ID7B2": (-1, 0, 0),
    "PETRA-P14-EIGER2": (0, 1, 0),
    "SSRF-BL17U1": (-1, 0, 0),
    "SSRF-BL18U1": (-1, 0, 0),
}
# Dates before or after the entry in the table.
OTHERS = {"DLS-VMXi before", "ALS-8.3.1-Q210 later"}


def read(name, folder, choices=NOTHING_STATED):
    path = dials_headers.write(name, folder)
    if path.suffix == ".img":
        return read_smv([path], (3072, 3072), choices)
    size = dials_headers.EIGER if "E-32" in path.read_text("latin-1") else dials_headers.PILATUS
    if "160-0001" in path.read_text("latin-1"):
        size = dials_headers.EIGER
    return read_cbf([path], np.zeros((size["slow"], size["fast"]), np.int32), choices)


def choices_of(name):
    row = next(row for row in INSTRUMENTS if row.name == name.split(" ")[0])
    return NOTHING_STATED if row.marks else Choices(instrument=row)


@pytest.mark.parametrize("name", sorted(ORACLE.keys() - OTHERS))
def test_goniometer_of_each_instrument(tmp_path, name):
    header, theirs = read(name, tmp_path, choices_of(name)), ORACLE[name]
    assert header.goniometer is not None, header.notes
    assert (header.start_deg, header.step_deg) == pytest.approx(theirs["oscillation"])
    if name in LATER:
        np.testing.assert_allclose(header.goniometer.axes, [FROM_DXTBX @ LATER[name]])
        return
    assert theirs["format"] not in GENERIC
    start = np.radians(header.start_deg)
    scanned = Turn.from_rotvec(start * np.array(theirs["rotation_axis"])).as_matrix()
    setting, fixed = (np.reshape(theirs[f"{n}_rotation"], (3, 3)) for n in ("setting", "fixed"))
    turn = FROM_DXTBX @ setting @ scanned @ fixed @ FROM_DXTBX
    # dxtbx does not normalise the axis of the mini-kappa.
    np.testing.assert_allclose(header.goniometer.rotation(start), turn, atol=2e-3)


@pytest.mark.parametrize("name", sorted(ORACLE))
def test_detector_of_each_instrument(tmp_path, name):
    detector, theirs = read(name, tmp_path, choices_of(name)).detector, ORACLE[name]
    for vector, key in ((detector.fast, "fast"), (detector.slow, "slow")):
        np.testing.assert_allclose(vector, FROM_DXTBX @ theirs[key], atol=1e-12)
    np.testing.assert_allclose(1e3 * detector.origin, FROM_DXTBX @ theirs["origin_mm"], atol=1e-9)


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_an_entry_is_valid_for_its_dates_only(tmp_path, name):
    header = read(name, tmp_path)
    assert header.goniometer is None


def test_every_instrument_has_a_test_and_a_source():
    tested = {name.split(" ")[0] for name in ORACLE}
    others = {
        # by hand, here and in test_mini_cbf.py, test_smv.py
        "DLS-I19-1", "DLS-I23", "Stoe-Stadivari", "ESRF-ID23", "BESSY-14.2", "APS-19ID-ADSC",
        "SPring8-BL32XU", "ESRF-ID23-2", "SPring8-EIGER",
    }  # fmt: skip
    names = [row.name for row in INSTRUMENTS]
    assert tested | others == set(names)
    assert len(set(names)) == len(names) >= 20
    assert all(row.source for row in INSTRUMENTS)


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("# 2016-03-05T09:01:45.613\n", "2016-03-05"),
        ("# 2007/Jun/17 15:12:36.928\n", "2007-06-17"),
        ("DATE=Thu May 15 13:17:42 2008;", "2008-05-15"),
        ("DATE=Fri Mar  5 13:17:42 PST 2004;", "2004-03-05"),
        ("Template modified", ""),
    ],
)
def test_dates_of_headers(text, date):
    assert date_of(text) == date


def test_an_unknown_name_is_refused_with_the_names():
    with pytest.raises(HklflowError, match="use one of ADSC-445"):
        named("SMV", "DLS-I04")


KAPPA_I23 = {"Alpha": 50.0, "Kappa": 20.0, "Omega": 10.0, "Phi": 0.0}


def test_curved_detectors_and_beam_centres_elsewhere_are_refused(tmp_path):
    text = dials_headers._cbf(
        dials_headers.PILATUS, "PILATUS 12M, S/N 120-0100", dials_headers.NEW, **KAPPA_I23
    )
    path = tmp_path / "a_00001.cbf"
    path.write_bytes(text.encode() + b"\x0c\x1a\x04\xd5")
    header = read_cbf([path], np.zeros((4, 4), np.int32), NOTHING_STATED)
    assert header.detector is None
    assert "half cylinder" in header.detector_doubt
    # dxtbx: kappa in direction -y at 50 degrees; its x and y are -x and y here.
    np.testing.assert_allclose(
        header.goniometer.axes[1], [-np.cos(np.radians(50)), -np.sin(np.radians(50)), 0], atol=1e-12
    )
    path = tmp_path / "b_001.img"
    path.write_text(dials_headers.SMV.format(number=914, year=2008))
    header = read_smv([path], (3072, 3072), NOTHING_STATED)
    assert header.detector is None
    assert "BEAM_CENTER_X" in header.detector_doubt
    np.testing.assert_allclose(header.goniometer.axes, [[1.0, 0, 0]])
    path.write_text(
        dials_headers.SMV.format(number=1, year=2008).replace(
            "DIM=2;", "DIM=2;\nDETECTOR_NAME=Hamamatsu C10158DK;"
        )
    )
    header = read_smv([path], (3072, 3072), NOTHING_STATED)
    np.testing.assert_allclose(header.goniometer.axes, [[1.0, 0, 0]])
