"""Calibrations, PONI files and masks."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .cases import Case, Spoil, cut, edited, inside, several, written
from .experiment import CHECK, IMPORT_SERIES, MASK, PONI
from .raw_files import tiff

PONI_FILE, MASK_FILE, GEOMETRY = "raw/lab.poni", "config/mask.yaml", "raw/geometry.json"
SHOW = f"hklflow mask show {MASK_FILE} --shape 12,10"
IMPORT_MASK = f"hklflow mask import {MASK_FILE} raw/mask.tif"
IMPORT_HDF5 = f"hklflow mask import {MASK_FILE} raw/mask.h5:/entry/mask"
ADD = f"hklflow mask add {MASK_FILE} circle --slow 3 --fast 4 --radius 2"


def poni(*changes: tuple[str, str]) -> Spoil:
    """Change the PONI file."""
    return edited(PONI_FILE, *changes)


def geometry(section: str, name: str, value: Any) -> Spoil:
    """Change a calibrated geometry."""

    def spoil(folder: Path) -> None:
        data = json.loads((folder / GEOMETRY).read_text())
        assert name in data[section]
        data[section][name] = value
        (folder / GEOMETRY).write_text(json.dumps(data))

    return spoil


def mask(step: str) -> Spoil:
    """Append a step to the mask file."""
    return written(MASK_FILE, MASK + step + "\n")


def npy(name: str, array: np.ndarray[Any, Any]) -> Spoil:
    """Save an array."""
    return lambda folder: np.save(folder / name, array, allow_pickle=True)


def _circle(file: h5py.File) -> None:
    del file["entry/mask"]
    file["entry/mask"] = h5py.SoftLink("/entry/mask")


def _huge(file: h5py.File) -> None:
    file.create_dataset("huge", (10**7, 10**7), "u1", chunks=(1000, 1000))


CASES = [
    Case(
        "PONI file of 0 bytes",
        PONI,
        "the pixel size is missing in raw/lab.poni; add it to Detector_config",
        written(PONI_FILE, ""),
    ),
    Case(
        "PONI file truncated",
        PONI,
        "Detector_config in raw/lab.poni is not JSON (…); correct it",
        cut(PONI_FILE),
    ),
    Case(
        "PONI file that is no text",
        PONI,
        "raw/lab.poni is not a PONI file (…); give one of pyFAI",
        written(PONI_FILE, bytes(range(256))),
    ),
    Case(
        "PONI file without a wavelength",
        PONI,
        "raw/lab.poni has no Wavelength; set `wavelength` in Å",
        poni(("Wavelength", "#")),
    ),
    Case(
        "PONI file with the wavelength in Å",
        PONI,
        "raw/lab.poni: wavelength 5e+09 Å is outside the range of X-rays, 0.06 to 10 Å "
        "(entered in nm, m or eV?): set `wavelength` in Å",
        poni(("Wavelength: 5e-11", "Wavelength: 0.5")),
    ),
    Case(
        "PONI file with a negative distance",
        PONI,
        "raw/lab.poni has the distance -0.1 m and the rotations 0, 0, 0; the distance must be"
        " positive, and the rotations in radians: correct the PONI file",
        poni(("Distance: 0.1", "Distance: -0.1")),
    ),
    Case(
        "PONI file with the distance in mm",
        PONI,
        "raw/lab.poni: detector centre 100 m from the sample is outside the plausible range "
        "0.001 to 20 m (entered in mm?): correct the geometry",
        poni(("Distance: 0.1", "Distance: 100")),
    ),
    Case(
        "PONI file with a distance that is NaN",
        PONI,
        "raw/lab.poni has the distance nan m and the rotations 0, 0, 0; the distance must be "
        "positive, and the rotations in radians: correct the PONI file",
        poni(("Distance: 0.1", "Distance: nan")),
    ),
    Case(
        "PONI file with the distance in words",
        PONI,
        "distance is '10 cm' in raw/lab.poni, not a number; correct the PONI file",
        poni(("Distance: 0.1", "Distance: 10 cm")),
    ),
    Case(
        "PONI file with rotations in degrees",
        PONI,
        "raw/lab.poni has the distance 0.1 m and the rotations 29, 0, 0; the distance must be"
        " positive, and the rotations in radians: correct the PONI file",
        poni(("Rot1: 0", "Rot1: 2.9e1")),
    ),
    Case(
        "PONI file with pixels of size 0",
        PONI,
        "raw/lab.poni: pixel size 0 x 0.0001 m is outside the plausible range 1e-06 to 0.01 m "
        "(entered in mm or µm?): correct the geometry",
        poni(('"pixel1": 0.0001', '"pixel1": 0')),
    ),
    Case(
        "PONI file with pixels in µm",
        PONI,
        "raw/lab.poni: pixel size 100 x 0.0001 m is outside the plausible range 1e-06 to 0.01 "
        "m (entered in mm or µm?): correct the geometry",
        poni(('"pixel1": 0.0001', '"pixel1": 100')),
    ),
    Case(
        "PONI file with pixels in words",
        PONI,
        "Detector_config in raw/lab.poni is damaged (…); correct it",
        poni(('"pixel1": 0.0001', '"pixel1": "big"')),
    ),
    Case(
        "PONI file whose shape has one number",
        PONI,
        "Detector_config in raw/lab.poni is damaged (…); correct it",
        poni(("[12, 10]", "[12]")),
    ),
    Case(
        "PONI file with a negative shape",
        PONI,
        "raw/lab.poni: a detector cannot have (-12, 10) pixels: correct the geometry",
        poni(("[12, 10]", "[-12, 10]")),
    ),
    Case(
        "PONI file without a shape",
        PONI,
        "raw/lab.poni has no detector shape; set `shape` (slow, fast)",
        poni(('"max_shape": [12, 10], ', "")),
    ),
    Case(
        "PONI file with orientation 7",
        PONI,
        "image orientation 7 of the PONI geometry is not 1, 2, 3 or 4; give the corner of the "
        "detector where the first pixel is",
        poni(('"orientation": 2', '"orientation": 7')),
    ),
    Case(
        "PONI file whose detector is no JSON",
        PONI,
        "Detector_config in raw/lab.poni is not JSON (…); correct it",
        poni(('"orientation": 2}', '"orientation": 2')),
    ),
    Case(
        "PONI file of an unknown detector",
        PONI,
        "pyFAI has no detector 'Pilatus 7M', named in raw/lab.poni; give its pixel sizes in"
        " Detector_config",
        poni(("Detector: Detector", "Detector: Pilatus 7M"), ('"pixel1": 0.0001, ', "")),
    ),
    Case(
        "PONI file without poni1",
        PONI,
        "poni1 is missing in raw/lab.poni; a PONI file needs it",
        poni(("Poni1", "Pony1")),
    ),
    Case(
        "polarisation in per cent, asked for",
        PONI.replace("0.99", "99"),
        "--polarization: Input should be less than or equal to 1 (it is '99')",
        good=PONI,
    ),
    Case(
        "geometry of another detector",
        IMPORT_SERIES,
        "raw/r3_####.cbf: frames have (12, 10) pixels but the geometry has (5, 5): give the "
        "calibration of this detector",
        geometry("detector", "shape", [5, 5]),
    ),
    Case(
        "geometry without a detector",
        IMPORT_SERIES,
        "raw/geometry.json contains no detector geometry; give a calibration product",
        written(GEOMETRY, "{}"),
    ),
    Case(
        "geometry truncated",
        IMPORT_SERIES,
        "raw/geometry.json is not valid JSON (…); make it again",
        cut(GEOMETRY),
    ),
    Case(
        "geometry that is a list",
        IMPORT_SERIES,
        "raw/geometry.json holds a list, not a JSON object",
        written(GEOMETRY, "[]"),
    ),
    Case(
        "geometry with pixels in mm",
        IMPORT_SERIES,
        "raw/r3_####.cbf: pixel size 0.1 x 0.1 m is outside the plausible range 1e-06 to 0.01 "
        "m (entered in mm or µm?): correct the geometry",
        geometry("detector", "pixel_size_m", [0.1, 0.1]),
    ),
    Case(
        "geometry without a wavelength",
        IMPORT_SERIES,
        "the geometry in raw/geometry.json is damaged (…); calibrate again",
        geometry("beam", "wavelength_A", None),
    ),
    Case(
        "geometry with an energy in the place of the wavelength",
        IMPORT_SERIES,
        "raw/r3_####.cbf: wavelength 12398 Å is outside the range of X-rays, 0.06 to 10 Å "
        "(entered in nm, m or eV?): set `wavelength` in Å",
        geometry("beam", "wavelength_A", 12398.0),
    ),
    Case(
        "geometry with a direction in words",
        IMPORT_SERIES,
        "the geometry in raw/geometry.json is damaged (…); calibrate again",
        geometry("detector", "fast", "x"),
    ),
    Case(
        "mask file that is no YAML",
        SHOW,
        "config/mask.yaml is not valid YAML: …",
        mask("- {shape: circle"),
    ),
    Case(
        "mask file that is no list",
        SHOW,
        "config/mask.yaml is not a list; write one step in a line, each after `- `",
        written(MASK_FILE, "shape: circle\n"),
    ),
    Case(
        "mask of an unknown shape",
        SHOW,
        "1 problem in config/mask.yaml:\n"
        "  step 2 (line 2): shape: Input tag 'square' found using 'shape' does not match any "
        "of the expected tags: 'rectangle', 'circle', 'annulus', 'ring', 'polygon', "
        "'beamstop'",
        mask("- {shape: square, slow: 1, fast: 1, size: 3}"),
    ),
    Case(
        "mask with a radius of 0",
        SHOW,
        "1 problem in config/mask.yaml:\n"
        "  step 2 (line 2): radius: Input should be greater than 0 (it is 0)",
        mask("- {shape: circle, slow: 1, fast: 1, radius: 0}"),
    ),
    Case(
        "mask with NaN",
        SHOW,
        "1 problem in config/mask.yaml:\n"
        "  step 2 (line 2): slow: Input should be a finite number (it is nan)",
        mask("- {shape: circle, slow: .nan, fast: 1, radius: 1}"),
    ),
    Case(
        "mask without a radius",
        SHOW,
        "1 problem in config/mask.yaml:\n  step 2 (line 2): radius: Field required",
        mask("- {shape: circle, slow: 1, fast: 1}"),
    ),
    Case(
        "mask with an unknown key",
        SHOW,
        "1 problem in config/mask.yaml:\n"
        "  step 2 (line 2): colour: Extra inputs are not permitted (it is 'red')",
        mask("- {shape: circle, slow: 1, fast: 1, radius: 2, colour: red}"),
    ),
    Case(
        "mask with a key that stands twice",
        SHOW,
        "1 problem in config/mask.yaml:\n  step 2 (line 2): slow is given twice; keep one",
        mask("- {shape: circle, slow: 1, slow: 2, fast: 1, radius: 2}"),
    ),
    Case(
        "polygon of two corners",
        SHOW,
        "1 problem in config/mask.yaml:\n"
        "  step 2 (line 2): mask polygon with corners ((0.0, 0.0), (1.0, 1.0)): give three or"
        " more finite corners",
        mask("- {shape: polygon, corners: [[0, 0], [1, 1]]}"),
    ),
    Case(
        "mask image that is not there",
        SHOW,
        "1 problem in config/mask.yaml:\n"
        "  step 2 (image ../raw/none.tif): the mask image config/../raw/none.tif does not "
        "exist; check the path",
        mask("- {image: ../raw/none.tif}"),
    ),
    Case(
        "mask image that is not there, seen by the check",
        CHECK,
        "1 problem in the experiment:\n  config: pixel_mask: config/../raw/none.tif does not exist",
        mask("- {image: ../raw/none.tif}"),
    ),
    Case(
        "mask image of another detector",
        SHOW,
        "1 problem in config/mask.yaml:\n"
        "  step 2 (image ../raw/small.tif): the mask has 5 × 5 pixels (slow × fast), "
        "but the image 12 × 10; give the mask of this detector",
        several(
            mask("- {image: ../raw/small.tif}"), tiff("raw/small.tif", np.zeros((5, 5), np.uint8))
        ),
    ),
    Case(
        "mask of an unknown detector",
        SHOW,
        "1 problem in config/mask.yaml:\n  step 2 (gaps of Pilatus 7M): pyFAI does not know "
        "the detector 'Pilatus 7M'; perhaps pilatus6m, pilatus2m, pilatus1m",
        mask("- {detector: Pilatus 7M}"),
    ),
    Case(
        "gaps of another detector",
        SHOW,
        "1 problem in config/mask.yaml:\n"
        "  step 2 (gaps of Pilatus 100k): the detector Pilatus 100k has 195 × 487 pixels "
        "(slow × fast), the image 12 × 10; name the detector of this image",
        mask("- {detector: Pilatus 100k}"),
    ),
    Case(
        "edges of width 0",
        SHOW,
        "1 problem in config/mask.yaml:\n"
        "  step 2 (line 2): edges: Input should be greater than or equal to 1 (it is 0)",
        mask("- {edges: 0}"),
    ),
    Case(
        "mask file in Latin-1",
        SHOW,
        "config/mask.yaml is not UTF-8 text (…); save it as UTF-8",
        written(MASK_FILE, "# Strahlfänger\n".encode("latin-1") + MASK.encode()),
    ),
    Case(
        "mask image truncated",
        IMPORT_MASK,
        "frame 0 cannot be read from raw/mask.tif (…); the file is truncated, damaged or has "
        "another format: copy it again",
        cut("raw/mask.tif"),
    ),
    Case(
        "mask image added that is not there",
        IMPORT_MASK.replace("mask.tif", "no.tif"),
        "the mask image raw/no.tif does not exist; check the path",
        good=IMPORT_MASK,
    ),
    Case(
        "mask of Python objects (.npy)",
        IMPORT_MASK.replace("mask.tif", "m.npy"),
        "raw/m.npy is not an image of numbers (…); save it again",
        npy("raw/m.npy", np.array([[{}]], object)),
        good=IMPORT_MASK,
    ),
    Case(
        "mask in three dimensions (.npy)",
        IMPORT_MASK.replace("mask.tif", "m.npy"),
        "raw/m.npy has 3 dimensions; give one image (slow, fast)",
        npy("raw/m.npy", np.zeros((2, 12, 10))),
        good=IMPORT_MASK,
    ),
    Case(
        "mask of letters (.npy)",
        IMPORT_MASK.replace("mask.tif", "m.npy"),
        "raw/m.npy contains <U1, not an image of numbers; save it again",
        npy("raw/m.npy", np.array([["a"]])),
        good=IMPORT_MASK,
    ),
    Case(
        "mask image that is no PNG",
        IMPORT_MASK.replace("mask.tif", "m.png"),
        "raw/m.png cannot be read as PNG (…); save it again",
        written("raw/m.png", "no picture"),
        good=IMPORT_MASK,
    ),
    Case(
        "mask in HDF5 without its path",
        IMPORT_MASK.replace("mask.tif", "mask.h5"),
        "raw/mask.h5 needs the path of the mask in it: write raw/mask.h5:/path",
        good=IMPORT_HDF5,
    ),
    Case(
        "mask in HDF5 that is not there",
        IMPORT_MASK.replace("mask.tif", "mask.h5:/entry/none"),
        "raw/mask.h5 has no dataset /entry/none; give the path of its pixel mask",
        good=IMPORT_HDF5,
    ),
    Case(
        "mask in HDF5 that is a link to itself",
        IMPORT_HDF5,
        "/entry/mask in raw/mask.h5 is a link that leads back to itself; the file is damaged: "
        "copy it again",
        inside("raw/mask.h5", _circle),
    ),
    Case(
        "mask in HDF5 of 10^14 pixels",
        IMPORT_MASK.replace("mask.tif", "mask.h5:/huge"),
        "raw/mask.h5:/huge has the shape (10000000, 10000000), more pixels than any detector "
        "has; give the path of the mask",
        inside("raw/mask.h5", _huge),
        good=IMPORT_MASK,
    ),
    Case(
        "folder as mask image",
        IMPORT_MASK.replace("/mask.tif", ""),
        "the mask image raw is a folder, not a file; check the path",
        good=IMPORT_MASK,
    ),
    Case(
        "mask file in a folder that is not there",
        IMPORT_MASK.replace("config", "nowhere"),
        "…/nowhere/mask.yaml cannot be written in its folder (No such file or directory); "
        "make the folder first",
        good=IMPORT_MASK,
    ),
    Case(
        "shape 12x10 in the place of 12,10",
        SHOW.replace("12,10", "12x10"),
        "--shape '12x10' is not a shape; give rows,columns, such as 1043,981",
        good=SHOW,
    ),
    Case(
        "shape of 10^18 pixels",
        SHOW.replace("12,10", "1000000000,1000000000"),
        "--shape '1000000000,1000000000' is not a shape; give rows,columns, such as 1043,981",
        good=SHOW,
    ),
    Case(
        "picture as JPEG",
        SHOW + " -o mask.jpg",
        "--output mask.jpg is not the name of a picture; end it in .png",
        good=SHOW,
    ),
    Case(
        "circle of a negative radius",
        ADD.replace("--radius 2", "--radius=-2"),
        "circle: radius: Input should be greater than 0 (it is -2)",
        good=ADD,
    ),
    Case(
        "circle of a radius that is NaN",
        ADD.replace("--radius 2", "--radius nan"),
        "circle: radius: Input should be a finite number (it is nan)",
        good=ADD,
    ),
    Case(
        "square as mask",
        ADD.replace("circle", "square"),
        'Invalid value "square" for KIND. Choose from: "rectangle", "circle", "annulus", '
        '"ring", "polygon", "beamstop", "edges", "detector".',
        good=ADD,
    ),
]
