"""Input that looks wrong and is right: the commands must pass."""

import json
import shlex
from pathlib import Path

from .cases import Fine, edited, renamed, several, written
from .experiment import CHECK, IMPORT, IMPORT_SERIES, SCANS
from .headers import ANGLES, PHI, r1
from .tables import ADD, SAMPLES_TSV, SCANS_TSV

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


_BOM = b"\xef\xbb\xbf"

FINE = [
    Fine("start at -5°", IMPORT_SERIES),
    Fine("negative steps", IMPORT, r1(PHI, -ANGLES)),
    Fine("angles beyond a turn", IMPORT, r1(PHI, 720 + ANGLES)),
    Fine("0 K", ADD.replace("--temperature 50", "--temperature 0")),
    Fine("line ends of Windows", CHECK, written(SCANS_TSV, SCANS.replace("\n", "\r\n"))),
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
