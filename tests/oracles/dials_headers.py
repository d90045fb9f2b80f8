"""Make dials_headers.json: goniometer and detector that dxtbx reads from headers of instruments.

Run with hklflow's interpreter and DIALS on PATH:

    python tests/oracles/dials_headers.py --dials-python "python interpreter that imports dxtbx"

The headers are made here, with the mark of each instrument. dxtbx needs no pixels for its models.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

CBF = """###CBF: VERSION 1.5, CBFlib v0.7.8 - PILATUS detectors

data_a_00001

_array_data.header_convention "{convention}"
_array_data.header_contents
;
# Detector: {detector}
# {date}
# Pixel_size {pixel}e-6 m x {pixel}e-6 m
# Silicon sensor, thickness 0.000320 m
# Exposure_time 0.0950000 s
# Exposure_period 0.1000000 s
# Count_cutoff 1048500 counts
# Threshold_setting 6330 eV
# Wavelength 0.97950 A
# Detector_distance 0.25000 m
# Beam_xy (1220.00, 1260.50) pixels
# Flux 0.000000
# Filter_transmission 1.0000
# Start_angle 10.0000 deg.
# Angle_increment 0.1000 deg.
# Detector_2theta 0.0000 deg.
# Polarization 0.990
{motors}# Oscillation_axis {axis}
;

_array_data.data
;
--CIF-BINARY-FORMAT-SECTION--
Content-Type: application/octet-stream;
     conversions="x-CBF_BYTE_OFFSET"
Content-Transfer-Encoding: BINARY
X-Binary-Size: 4
X-Binary-ID: 1
X-Binary-Element-Type: "signed 32-bit integer"
X-Binary-Element-Byte-Order: LITTLE_ENDIAN
X-Binary-Number-of-Elements: {elements}
X-Binary-Size-Fastest-Dimension: {fast}
X-Binary-Size-Second-Dimension: {slow}
X-Binary-Size-Padding: 4095

"""

SMV = """{{
HEADER_BYTES=1024;
DIM=2;
BYTE_ORDER=little_endian;
TYPE=unsigned_short;
SIZE1=3072;
SIZE2=3072;
PIXEL_SIZE=0.1024;
BIN=2x2;
DETECTOR_SN={number};
DATE=Thu May 15 13:17:42 {year};
TIME=1.0;
DISTANCE=250.0;
OSC_RANGE=0.5;
PHI=10.0;
OSC_START=10.0;
TWOTHETA=0.0;
AXIS=phi;
WAVELENGTH=0.9795;
BEAM_CENTER_X=155.0;
BEAM_CENTER_Y=160.0;
DENZO_X_BEAM=156.0;
DENZO_Y_BEAM=161.0;
DENZO_XBEAM=157.0;
DENZO_YBEAM=162.0;
CCD_IMAGE_SATURATION=65535;
}}
"""

PILATUS = {"convention": "PILATUS_1.2", "pixel": 172, "fast": 2463, "slow": 2527}
EIGER = {"convention": "PILATUS_1.2", "pixel": 75, "fast": 4150, "slow": 4371}


def _motors(**angles: float) -> str:
    return "".join(f"# {name} {angle:.4f} deg.\n" for name, angle in angles.items())


def _cbf(size: dict, detector: str, date: str, axis: str = "OMEGA", **angles: float) -> str:
    motors = _motors(**(angles or {"Omega": 10.0}))
    text = CBF.format(
        detector=detector, date=date, motors=motors, axis=axis,
        elements=size["fast"] * size["slow"], **size,
    )  # fmt: skip
    return text


OLD, NEW = "2016-05-12T10:11:12.345", "2023-05-12T10:11:12.345"
KAPPA = {"Omega": 10.0, "Kappa": 20.0, "Phi": 30.0}
EULER = {"Omega": 10.0, "Chi": 20.0, "Phi": 30.0}

# name -> text of the header; the names begin with the name in the table of instruments.
CASES = {
    "DLS-I04": _cbf(PILATUS, "PILATUS 6M, S/N 60-0100 Diamond", OLD, **KAPPA),
    "DLS-I03": _cbf(PILATUS, "PILATUS3 6M, S/N 60-0126", OLD, **KAPPA),
    "DLS-EIGER-160": _cbf(EIGER, "Dectris EIGER2 16M, S/N 160-0001", OLD, **EULER),
    "DLS-VMXi": _cbf(PILATUS, "PILATUS3 6M, S/N 60-0114", NEW),
    "DLS-VMXi before": _cbf(PILATUS, "PILATUS3 6M, S/N 60-0114", "2014-05-12T10:11:12.345"),
    "DLS-I24": _cbf(PILATUS, "PILATUS3 6M, S/N 60-0119", NEW),
    "DLS-I24 plate": _cbf(PILATUS, "PILATUS3 6M, S/N 60-0119", NEW, axis="-FAST"),
    "SOLEIL-PX1": _cbf(
        PILATUS, "PILATUS 6M, S/N 60-0106, Soleil", OLD, Alpha=50.0, Kappa=20.0, Phi=30.0, Chi=10.0
    ),
    "SPring8-BL41XU": _cbf(PILATUS, "PILATUS3 6M, S/N 60-0125", OLD),
    "CHESS-F1": _cbf(PILATUS, "PILATUS3 6M, S/N 60-0127", OLD),
    "CHESS-ID7B2": _cbf(EIGER, "Dectris EIGER2 Si 16M, S/N E-32-0123", NEW),
    "APS-19ID": _cbf(PILATUS, "PILATUS3 6M, S/N 60-0132", OLD),
    "PETRA-P14": _cbf(PILATUS, "PILATUS 6M-F, S/N 60-0115-F", OLD),
    "PETRA-P14-EIGER": _cbf(EIGER, "Dectris EIGER 16M, S/N E-32-0107", OLD),
    "PETRA-P14-EIGER2": _cbf(EIGER, "Dectris EIGER2 16M, S/N E-32-0129", NEW),
    "MAXIV-BioMAX": _cbf(EIGER, "Dectris Eiger 16M, S/N E-32-0105", OLD),
    "SSRF-BL17U1": _cbf(EIGER, "Dectris Eiger 16M, S/N E-32-0111", OLD),
    "SSRF-BL18U1": _cbf(PILATUS, "PILATUS3 6M, S/N 60-0123", OLD),
    "SSRF-BL19U1": _cbf(PILATUS, "PILATUS3 6M, S/N XX-XXX", OLD),
    "ALS-8.3.1-Q210": SMV.format(number=442, year=2005),
    "ALS-8.3.1-Q210 later": SMV.format(number=442, year=2008),
    "ADSC-445": SMV.format(number=445, year=2008),
    "AS-MX1": SMV.format(number=457, year=2008),
    "AS-MX2": SMV.format(number=928, year=2012),
    "ADSC-905": SMV.format(number=905, year=2008),
    "SPring8-BL38B1": SMV.format(number=915, year=2012),
    "DLS-I03-Q315": SMV.format(number=920, year=2008),
}

READ = """
import json, sys
from dxtbx.format.Registry import get_format_class_for_file
answers = {}
for name, path in json.loads(sys.argv[1]).items():
    kind = get_format_class_for_file(path)
    image = kind(path)
    goniometer, panel = image.get_goniometer(), image.get_detector()[0]
    answer = {
        "format": kind.__name__,
        "rotation_axis": goniometer.get_rotation_axis(),
        "setting_rotation": goniometer.get_setting_rotation(),
        "fixed_rotation": goniometer.get_fixed_rotation(),
        "fast": panel.get_fast_axis(),
        "slow": panel.get_slow_axis(),
        "origin_mm": panel.get_origin(),
        "oscillation": image.get_scan().get_oscillation(),
    }
    if hasattr(goniometer, "get_axes"):
        answer["axes"] = list(goniometer.get_axes())
        answer["angles"] = list(goniometer.get_angles())
        answer["scan_axis"] = goniometer.get_scan_axis()
    answers[name] = answer
print(json.dumps(answers))
"""


def write(name: str, folder: Path) -> Path:
    """Write the file with the header of a case."""
    text = CASES[name]
    if text.startswith("{"):
        path = folder / f"{name.replace(' ', '_')}_001.img"
        path.write_bytes(text.encode().ljust(1024))
    else:
        path = folder / f"{name.replace(' ', '_')}_00001.cbf"
        path.write_bytes(text.replace("\n", "\r\n").encode() + b"\x0c\x1a\x04\xd5" + bytes(4))
    return path


def main() -> None:
    """Write the headers, have dxtbx read them, and save what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dials-python", required=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(write(name, Path(folder))) for name in CASES}
        done = subprocess.run(
            [parser.parse_args().dials_python, "-c", READ, json.dumps(paths)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    answers = json.loads(done.stdout.splitlines()[-1])
    text = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in answers.items())
    (HERE / "dials_headers.json").write_text("{\n" + text + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
