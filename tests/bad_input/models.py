"""Orientation models of hklflow and of other programs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .cases import Case, Spoil, cut, edited, inside, removed, replaced, written

EXPT, XPARM, NXREFINE = "raw/refined.expt", "raw/XPARM.XDS", "raw/refined.nxs"
OURS = "raw/orientation.json"
SCAN = "results/quartz/300K/r1/scan.nxs"
SHOW = f"hklflow model show {OURS}"
SHOW_XDS, SHOW_NXREFINE = f"hklflow model show {XPARM}", f"hklflow model show {NXREFINE}"
TAKE = f"hklflow model import {EXPT} --scans {SCAN} -o new.json"
EXPORT = f"hklflow model export {OURS} --to dials -o new.expt"
COMPARE = f"hklflow model compare {EXPT} {XPARM}"
MATRIX = "r1/instrument/detector/orientation_matrix"


def changed(name: str, change: Callable[[Any], Any]) -> Spoil:
    """Change what a JSON file holds."""

    def spoil(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        change(data)
        (folder / name).write_text(json.dumps(data))

    return spoil


def _set(name: str, *place: str | int, to: Any) -> Spoil:
    def change(data: Any) -> None:
        *above, last = place
        for key in above:
            data = data[key]
        data[last] = to

    return changed(name, change)


def expt(*place: str | int, to: Any) -> Spoil:
    """Change a value in the file of DIALS."""
    return _set(EXPT, *place, to=to)


def ours(*place: str | int, to: Any) -> Spoil:
    """Change a value in the orientation of hklflow."""
    return _set(OURS, *place, to=to)


def _reversed(data: Any) -> None:
    """Reverse a: the lattice is then left-handed."""
    data["crystal"][0]["real_space_a"] = [-x for x in data["crystal"][0]["real_space_a"]]


def _twice(data: Any) -> None:
    data["experiment"].append(data["experiment"][0])


def _all_reversed(data: Any) -> None:
    """Left-handed throughout: U, too."""
    for name in ("U", "UB"):
        data[name] = [[-x for x in row] for row in data[name]]


def _without_matrix(file: h5py.File) -> None:
    del file[MATRIX]


def _without_step(file: h5py.File) -> None:
    file["r1/instrument/goniometer/phi"].attrs["step"] = 0.0


def _older(folder: Path) -> None:
    """Take away the line that names the version."""
    lines = (folder / XPARM).read_text().splitlines(keepends=True)
    (folder / XPARM).write_text("".join(lines[1:]))


CASES = [
    Case(
        "file of DIALS that is not there",
        TAKE,
        "orientation raw/refined.expt does not exist; check the path",
        removed(EXPT),
    ),
    Case(
        "file of DIALS truncated",
        TAKE,
        "raw/refined.expt is not JSON (…); it is truncated: copy it again",
        cut(EXPT),
    ),
    Case(
        "file of DIALS of 0 bytes",
        TAKE,
        "raw/refined.expt is not an orientation file that hklflow can read; give .expt of DIALS, "
        "XPARM.XDS or GXPARM.XDS, a file of NXRefine, or an orientation.json",
        written(EXPT, ""),
    ),
    Case(
        "words in the place of a file of DIALS",
        TAKE,
        "raw/refined.expt is not an orientation file that hklflow can read; give .expt of DIALS, "
        "XPARM.XDS or GXPARM.XDS, a file of NXRefine, or an orientation.json",
        written(EXPT, "hello"),
    ),
    Case(
        "file of DIALS of an unknown version",
        TAKE,
        "raw/refined.expt is not an experiment list; give a .expt file of DIALS",
        expt("__id__", to="ExperimentList2"),
    ),
    Case(
        "file of DIALS without experiments",
        TAKE,
        "raw/refined.expt contains no experiment; import images first",
        expt("experiment", to=[]),
    ),
    Case(
        "stills of DIALS",
        TAKE,
        "experiment 0 in raw/refined.expt is a still (no goniometer or scan); hklflow "
        "reduces rotation scans: give the file of a rotation scan",
        expt("experiment", 0, "scan", to=None),
    ),
    Case(
        "file of DIALS that names a detector it has not",
        TAKE,
        "experiment 0 in raw/refined.expt refers to detector 7, but the file has 1: it is "
        "damaged; write the file again",
        expt("experiment", 0, "detector", to=7),
    ),
    Case(
        "scan of DIALS without angles",
        TAKE,
        "experiment 0 in raw/refined.expt is damaged (…); write the file again",
        changed(EXPT, lambda data: data["scan"][0].pop("oscillation")),
    ),
    Case(
        "left-handed crystal of DIALS",
        TAKE,
        "raw/refined.expt: UB of f1 is left-handed (its determinant is -2.2); reverse or swap"
        " axes of the crystal in the file",
        changed(EXPT, _reversed),
    ),
    Case(
        "crystal of DIALS with NaN",
        TAKE,
        "raw/refined.expt: UB of f1 is not finite; correct the file",
        expt("crystal", 0, "real_space_a", to=[float("nan")] * 3),
    ),
    Case(
        "crystal of DIALS with an axis of length 0",
        TAKE,
        "experiment 0 in raw/refined.expt is damaged (…); write the file again",
        expt("crystal", 0, "real_space_a", to=[0, 0, 0]),
    ),
    Case(
        "model of DIALS at another wavelength",
        TAKE,
        "raw/refined.expt has another geometry for f1 than the scan: scattering vectors of "
        "pixels differ by 50.0% (limit 5%); check wavelength, beam centre, distance, rotation"
        " axis and step of both",
        expt("beam", 0, "wavelength", to=1.0),
    ),
    Case(
        "model of DIALS at a wavelength of 0",
        TAKE,
        "raw/refined.expt: f1 has wavelength 0 Å, (12, 10) pixels of (0.0001, 0.0001) m, 6 "
        "frames of 0.00872665 radians about axis 0 of 1; correct the file",
        expt("beam", 0, "wavelength", to=0),
    ),
    Case(
        "model of DIALS at another distance",
        TAKE,
        "raw/refined.expt has another geometry for f1 than the scan: scattering vectors of "
        "pixels differ by 89.6% (limit 5%); check wavelength, beam centre, distance, rotation"
        " axis and step of both",
        expt("detector", 0, "panels", 0, "origin", to=[0, 0, -300.0]),
    ),
    Case(
        "scan of DIALS with steps of 0",
        TAKE,
        "experiment 0 in raw/refined.expt has 6 images of 0.0 degrees: not a rotation scan; "
        "give the file of a rotation scan",
        expt("scan", 0, "oscillation", to=[0.0, 0.0]),
    ),
    Case(
        "scan of DIALS that ends before it begins",
        TAKE,
        "experiment 0 in raw/refined.expt has -4 images of 0.5 degrees: not a rotation scan; "
        "give the file of a rotation scan",
        expt("scan", 0, "image_range", to=[6, 1]),
    ),
    Case(
        "scan of DIALS of 10^12 images",
        TAKE,
        "raw/refined.expt: f1 has 1000000000000 frames, more than 10000000; correct the file",
        expt("scan", 0, "image_range", to=[1, 10**12]),
    ),
    Case(
        "crystal of DIALS with an unknown space group",
        TAKE,
        "raw/refined.expt: unknown space group 'Hall: nonsense'; use a Hermann-Mauguin symbol "
        "(Fd-3m, P 1 21/c 1, R -3 c :H), a Hall symbol or a number from 1 to 230",
        expt("crystal", 0, "space_group_hall_symbol", to="nonsense"),
    ),
    Case(
        "model of DIALS without a crystal",
        TAKE,
        "the model of f1 has a geometry but no crystal; index it first",
        changed(EXPT, lambda data: data["experiment"][0].pop("crystal")),
    ),
    Case(
        "model of DIALS of two rotations for one scan",
        TAKE,
        "1 scan files for the rotations f1, f2; give one of each in this order",
        changed(EXPT, _twice),
    ),
    Case(
        "left-handed orientation",
        SHOW,
        "raw/orientation.json: U is not a rotation: its rows must be orthogonal unit vectors",
        changed(OURS, _all_reversed),
    ),
    Case(
        "orientation with a number that is missing",
        SHOW,
        "raw/orientation.json: UB of shape (3, 3) and 1 rotations are not an orientation; use "
        "a finite (3, 3) matrix and at least one rotation",
        ours("UB", 0, 0, to=None),
    ),
    Case(
        "orientation whose U is no rotation",
        SHOW,
        "raw/orientation.json: U is not a rotation: its rows must be orthogonal unit vectors",
        ours("U", to=[[2, 0, 0], [0, 2, 0], [0, 0, 2]]),
    ),
    Case(
        "orientation whose U and UB differ",
        SHOW,
        "raw/orientation.json: U and the cell do not give UB (off by 1.4): one was edited; "
        "correct the file",
        ours("U", to=[[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
    ),
    Case(
        "orientation whose cell and UB differ",
        SHOW,
        "raw/orientation.json: U and the cell do not give UB (off by 0.11): one was edited; "
        "correct the file",
        ours("cell", 0, to=5.5),
    ),
    Case(
        "orientation without UB",
        SHOW,
        "raw/orientation.json: this is not an orientation of hklflow: KeyError 'UB'; use an "
        "orientation.json, converged.json or a start.json of `hklflow model import`",
        changed(OURS, lambda data: data.pop("UB")),
    ),
    Case(
        "orientation without rotations",
        SHOW,
        "raw/orientation.json: UB of shape (3, 3) and 0 rotations are not an orientation; use "
        "a finite (3, 3) matrix and at least one rotation",
        ours("rotations", to={}),
    ),
    Case(
        "list in the place of an orientation",
        SHOW,
        "raw/orientation.json is not an orientation file that hklflow can read; give .expt of "
        "DIALS, XPARM.XDS or GXPARM.XDS, a file of NXRefine, or an orientation.json",
        written(OURS, "[]"),
    ),
    Case(
        "orientation in words",
        SHOW,
        "raw/orientation.json: this is not an orientation of hklflow: ValueError could not "
        "convert string to float: 'unit'; use an orientation.json, converged.json or a "
        "start.json of `hklflow model import`",
        ours("UB", to="unit"),
    ),
    Case(
        "orientation with an unknown space group",
        SHOW,
        "raw/orientation.json: unknown space group 'P 7'; use a Hermann-Mauguin symbol "
        "(Fd-3m, P 1 21/c 1, R -3 c :H), a Hall symbol or a number from 1 to 230",
        ours("space_group", to="P 7"),
    ),
    Case(
        "XPARM.XDS truncated",
        SHOW_XDS,
        "raw/XPARM.XDS is truncated or damaged (…); write it again with XDS",
        cut(XPARM),
    ),
    Case(
        "XPARM.XDS with words in the place of numbers",
        SHOW_XDS,
        "raw/XPARM.XDS is not numeric (…); write it again",
        edited(XPARM, ("1 ", "one ")),
    ),
    Case(
        "XPARM.XDS of an unknown version",
        SHOW_XDS,
        "raw/XPARM.XDS is not an orientation file that hklflow can read; give .expt of DIALS, "
        "XPARM.XDS or GXPARM.XDS, a file of NXRefine, or an orientation.json",
        _older,
    ),
    Case(
        "file of NXRefine without an orientation",
        SHOW_NXREFINE,
        "raw/refined.nxs has no rotation with instrument/detector/orientation_matrix; give a "
        "file of NXRefine with a refined lattice",
        inside(NXREFINE, _without_matrix),
    ),
    Case(
        "matrix of NXRefine with NaN",
        SHOW_NXREFINE,
        "/r1/instrument/detector/orientation_matrix in raw/refined.nxs is not finite; correct the "
        "file",
        replaced(NXREFINE, MATRIX, np.full((3, 3), np.nan)),
    ),
    Case(
        "matrix of NXRefine of zeros",
        SHOW_NXREFINE,
        "raw/refined.nxs: UB has determinant 0; a right-handed lattice has a positive "
        "determinant: check the order and sign of the columns a*, b*, c*",
        replaced(NXREFINE, MATRIX, np.zeros((3, 3))),
    ),
    Case(
        "matrix of NXRefine of four numbers",
        SHOW_NXREFINE,
        "raw/refined.nxs is not a readable file of NXRefine (…); copy it again",
        replaced(NXREFINE, MATRIX, np.zeros((2, 2))),
    ),
    Case(
        "left-handed matrix of NXRefine",
        SHOW_NXREFINE,
        "raw/refined.nxs: UB has determinant -2.2; a right-handed lattice has a positive "
        "determinant: check the order and sign of the columns a*, b*, c*",
        replaced(NXREFINE, MATRIX, -np.eye(3)),
    ),
    Case(
        "file of NXRefine truncated",
        SHOW_NXREFINE,
        "raw/refined.nxs is not a readable file of NXRefine (…); copy it again",
        cut(NXREFINE),
    ),
    Case(
        "scan of NXRefine with steps of 0",
        SHOW_NXREFINE,
        "phi of r1 in raw/refined.nxs has no step; give a rotation scan",
        inside(NXREFINE, _without_step),
    ),
    Case(
        "raw file in the place of an orientation",
        "hklflow model show raw/r1.nxs",
        "raw/r1.nxs has no rotation with instrument/detector/orientation_matrix; give a file "
        "of NXRefine with a refined lattice",
        good=SHOW_NXREFINE,
    ),
    Case(
        "PONI file in the place of an orientation",
        "hklflow model show raw/lab.poni",
        "raw/lab.poni is not an orientation file that hklflow can read; give .expt of DIALS, "
        "XPARM.XDS or GXPARM.XDS, a file of NXRefine, or an orientation.json",
        good=SHOW_NXREFINE,
    ),
    Case(
        "output that exists",
        TAKE,
        "new.json exists; give --force to overwrite it, or another name",
        written("new.json", "{}"),
    ),
    Case(
        "output in a folder that is not there",
        TAKE.replace("new.json", "nowhere/new.json"),
        "the folder of nowhere/new.json does not exist; make it first",
        good=TAKE,
    ),
    Case(
        "volume in the place of a scan file",
        TAKE.replace("r1/scan.nxs", "transform.nxs"),
        "results/quartz/300K/transform.nxs is not the product that is needed here (…); check "
        "the path",
        good=TAKE,
    ),
    Case(
        "two scan files for one rotation",
        TAKE.replace(SCAN, f"{SCAN} {SCAN}"),
        "2 scan files for the rotations f1; give one of each in this order",
        good=TAKE,
    ),
    Case(
        "file of DIALS with another ending",
        EXPORT.replace("new.expt", "new.json"),
        "--output new.json is not the name of an experiment list; end it in .expt",
        good=EXPORT,
    ),
    Case(
        "unknown program",
        EXPORT.replace("dials", "mosflm"),
        'Invalid value "mosflm" for --to. Choose from: "dials", "xds", "nxrefine".',
        good=EXPORT,
    ),
    Case(
        "unknown space group to compare in",
        COMPARE + " --space-group P7",
        "unknown space group 'P7'; use a Hermann-Mauguin symbol (Fd-3m, P 1 21/c 1, R -3 c "
        ":H), a Hall symbol or a number from 1 to 230",
        good=COMPARE,
    ),
]
