"""Input that looks wrong and is right: the commands must pass."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np

from hklflow import nexus

from .cases import Fine, edited, inside, renamed, several, written
from .experiment import CHECK, IMPORT, IMPORT_SERIES, PEAKS, SCANS
from .headers import ANGLES, COUNTS, DETECTOR, MONITOR, PHI, R1, WAVELENGTH, _log, at, attribute, r1
from .raw_files import _counts, _hung, _lost
from .tables import ADD, SAMPLES_TSV, SCANS_TSV, again, link, own_frames

ODD = "räw $(touch pwned) 'x' &;"  # a folder that a shell would mistake


def _read_only(folder: Path) -> None:
    for path in (folder / "raw").iterdir():
        path.chmod(0o444)
    (folder / "raw").chmod(0o555)


def _linked(folder: Path) -> None:
    """Raw data that are elsewhere, and links to them."""
    (folder / "raw").rename(folder / "elsewhere")
    (folder / "raw").symlink_to("elsewhere", target_is_directory=True)


def _loop_beside(folder: Path) -> None:
    """A link to itself that nobody asks for."""
    (folder / "raw/loop").symlink_to("loop")
    (folder / "raw/up").symlink_to("..")


def _left_out(folder: Path) -> None:
    """Leave frames 3 and 4 out of the scan file."""
    path = folder / "results/quartz/300K/r1/scan.nxs"
    scan = nexus.read_scan(path)
    path.unlink()
    nexus.write_scan(path, replace(scan, left_out=(3, 4)), "left out", None)


_BOM = b"\xef\xbb\xbf"

FINE = [
    Fine("table of scans without rows", CHECK, written(SCANS_TSV, SCANS.splitlines()[0] + "\n")),
    Fine("start at -5°", IMPORT_SERIES),
    Fine("negative steps", IMPORT, r1(PHI, -ANGLES)),
    Fine("angles beyond a turn", IMPORT, r1(PHI, 720 + ANGLES)),
    Fine("steps of 0.0005°", IMPORT, r1(PHI, ANGLES / 1000)),
    Fine("steps of 0.1°, of which the angles are 3.14° in all", IMPORT, r1(PHI, ANGLES * 3.14 / 3)),
    Fine(
        "radians of 180° in degrees, which the scan table confirms",
        IMPORT + " --scan-axis phi --start=-1.0472 --step 0.523598776",
        r1(PHI, np.radians(-60 + 30.0 * np.arange(6))),
    ),
    Fine(
        "temperature log whose clock was set back, and a temperature in the table",
        IMPORT + " --temperature 300",
        inside(R1, _log),
    ),
    Fine(
        "a frame without beam, left out", IMPORT + " --leave-out 2", r1(MONITOR, at(COUNTS, 2, 0))
    ),
    Fine("lost frames, left out", PEAKS, several(_counts(_lost()), _left_out)),
    Fine("copied frames, left out", PEAKS, several(_counts(_hung()), _left_out)),
    Fine("units in Latin-1", IMPORT, attribute(WAVELENGTH, "units", np.bytes_(b"\xc5"))),
    Fine(
        "a saturation of 0, which nobody filled in", IMPORT, r1(f"{DETECTOR}/saturation_value", 0)
    ),
    Fine("0 K", ADD.replace("--temperature 50", "--temperature 0")),
    Fine("line ends of Windows", CHECK, written(SCANS_TSV, SCANS.replace("\n", "\r\n"))),
    Fine(
        "two rows of one file, each with frames of its own",
        CHECK,
        several(again("raw/r1.nxs"), own_frames("r1:3-5", "r2:0-2")),
    ),
    Fine(
        "two rows of one file and a link to it, each with frames of its own",
        CHECK,
        several(
            link("raw/again.nxs", "r1.nxs"),
            again("raw/again.nxs", frames=""),
            own_frames("r1:3-5", "r2:0-2"),
        ),
    ),
    Fine("byte-order mark", CHECK, written(SCANS_TSV, _BOM + SCANS.encode())),
    Fine("comments and empty lines", CHECK, written(SCANS_TSV, "# x\n\n" + SCANS + "\n\n")),
    Fine(
        "columns in another order",
        CHECK,
        written(SAMPLES_TSV, "formula\tspace_group\tsample\nSiO2\tP 32 2 1\tquartz\n"),
    ),
    Fine("read-only raw data", IMPORT, _read_only, forbidden=True),
    Fine("raw data behind a link", IMPORT, _linked),
    Fine("a link to itself beside the raw data", IMPORT_SERIES, _loop_beside),
    Fine(
        "blanks, umlauts, quotes and shell characters in a path",
        IMPORT.replace("raw/r1.nxs", shlex.quote(f"{ODD}/r1.nxs")),
        renamed("raw", ODD),
    ),
    Fine(
        "the same in the table",
        CHECK,
        several(
            renamed("raw", ODD),
            edited(SCANS_TSV, ("raw/", f"{ODD}/")),
            edited("config/config.yaml", ("raw/lab.poni", json.dumps(f"{ODD}/lab.poni"))),
        ),
    ),
]
