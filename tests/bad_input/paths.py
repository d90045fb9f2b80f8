"""Paths and permissions: who may read what, and what stands in the place of files."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ..workflow.faults import small_disk
from .cases import Case, Spoil, edited, several, written
from .experiment import CHECK, IMPORT, IMPORT_LINKED, IMPORT_SERIES, PONI
from .raw_files import link, pipe
from .tables import ADD

CONFIG, SCANS, MASK = "config/config.yaml", "config/scans.tsv", "config/mask.yaml"
PONI_FILE, VOLUME = "raw/lab.poni", "results/quartz/300K/transform.nxs"
MASK_IMPORT = f"hklflow mask import {MASK} raw/mask.tif"
MASK_SHOW = f"hklflow mask show {MASK} --shape 12,10"
EXPORT = "hklflow model export raw/orientation.json --to dials -o x.expt"


def mode(name: str, bits: int) -> Spoil:
    """Change who may do what with a file."""
    return lambda folder: (folder / name).chmod(bits)


def made(name: str) -> Spoil:
    """Make a folder."""
    return lambda folder: (folder / name).mkdir(parents=True)


def moved_into_itself(folder: Path) -> None:
    """Put a link to itself in the place of the raw folder."""
    (folder / "raw").rename(folder / "aside")
    (folder / "raw").symlink_to("raw")


@contextmanager
def _small_disk(folder: Path, size_kb: int) -> Iterator[None]:
    """Put a small disk on a folder; where that is not permitted, there is nothing to test."""
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(folder, size_kb))
        except PermissionError as error:
            pytest.skip(f"no small disk can be mounted: {error}")
        yield


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Let new/ be a disk without room."""
    (folder / "new").mkdir()
    with _small_disk(folder / "new", 4):
        (folder / "new/full").write_bytes(4096 * b"x")
        yield


@contextmanager
def full_config(folder: Path) -> Iterator[None]:
    """Let config/ be a disk that its files fill."""
    aside = (folder / "config").rename(folder / "aside")
    (folder / "config").mkdir()
    used = sum(-(-path.stat().st_size // 4096) * 4 for path in aside.iterdir())
    with _small_disk(folder / "config", used):
        shutil.copytree(aside, folder / "config", dirs_exist_ok=True)
        yield


CASES = [
    Case(
        "raw file that may not be read",
        IMPORT,
        "raw: raw/r1.nxs may not be read (Permission denied: ask its owner); make it first or"
        " correct the path",
        mode("raw/r1.nxs", 0),
        forbidden=True,
    ),
    Case(
        "linked data file that may not be read",
        IMPORT_LINKED,
        "raw/r2_data_000002.h5 may not be read (Permission denied: ask its owner): "
        "raw/r2_master.h5 links it for the frames from 3; copy the data files next to the "
        "master file",
        mode("raw/r2_data_000002.h5", 0),
        forbidden=True,
    ),
    Case(
        "image that may not be read",
        IMPORT_SERIES,
        "raw: raw/r3_0001.cbf may not be read (Permission denied: ask its owner); make it "
        "first or correct the path",
        mode("raw/r3_0001.cbf", 0),
        forbidden=True,
    ),
    Case(
        "raw folder that may not be entered",
        IMPORT,
        "raw/r1.nxs: permission denied; ask its owner for access, or choose another location",
        mode("raw", 0),
        forbidden=True,
    ),
    Case(
        "raw folder that may not be entered, seen by the check",
        CHECK,
        "…/raw: permission denied; ask its owner for access, or choose another location",
        mode("raw", 0),
        forbidden=True,
    ),
    Case(
        "configuration that may not be read",
        CHECK,
        "configuration …/config/config.yaml may not be read (Permission denied: ask its "
        "owner); correct the path",
        mode(CONFIG, 0),
        forbidden=True,
    ),
    Case(
        "table that may not be read",
        CHECK,
        "1 problem in the experiment:\n  …/config/scans.tsv cannot be read (Permission denied)",
        mode(SCANS, 0),
        forbidden=True,
    ),
    Case(
        "PONI file that may not be read",
        PONI,
        "poni: raw/lab.poni may not be read (Permission denied: ask its owner); make it first"
        " or correct the path",
        mode(PONI_FILE, 0),
        forbidden=True,
    ),
    Case(
        "mask file that may not be read",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: pixel_mask: the mask file …/config/mask.yaml may not be read (Permission "
        "denied: ask its owner); check the path",
        mode(MASK, 0),
        forbidden=True,
    ),
    Case(
        "mask image that may not be read",
        MASK_IMPORT,
        "the mask image raw/mask.tif may not be read (Permission denied: ask its owner); "
        "check the path",
        mode("raw/mask.tif", 0),
        forbidden=True,
    ),
    Case(
        "orientation of DIALS that may not be read",
        "hklflow model show raw/refined.expt",
        "orientation raw/refined.expt may not be read (Permission denied: ask its owner); "
        "check the path",
        mode("raw/refined.expt", 0),
        forbidden=True,
    ),
    Case(
        "file of NXRefine that may not be read",
        "hklflow model show raw/refined.nxs",
        "orientation raw/refined.nxs may not be read (Permission denied: ask its owner); "
        "check the path",
        mode("raw/refined.nxs", 0),
        forbidden=True,
    ),
    Case(
        "volume that may not be read",
        f"hklflow show {VOLUME}",
        f"the file {VOLUME} may not be read (Permission denied: ask its owner); check the path",
        mode(VOLUME, 0),
        forbidden=True,
    ),
    Case(
        "table in a read-only folder, to be added to",
        ADD,
        "…/config/.tables.lock: permission denied; ask its owner for access, or choose "
        "another location",
        mode("config", 0o555),
        forbidden=True,
    ),
    Case(
        "results in a read-only folder",
        IMPORT,
        "new/.scan.partial.….nxs: permission denied; ask its owner for access, or choose "
        "another location",
        several(made("new"), mode("new", 0o555)),
        forbidden=True,
    ),
    Case(
        "results below a file",
        IMPORT,
        "new: file exists; correct the path",
        written("new", "x"),
    ),
    Case(
        "folder in the place of the output",
        IMPORT,
        "new/scan.nxs: is a directory; correct the path",
        made("new/scan.nxs"),
    ),
    Case(
        "results below a link that leads nowhere",
        IMPORT,
        "new: file exists; correct the path",
        link("new", "nowhere"),
    ),
    Case(
        "raw file that is a link to itself",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 1: raw file raw/r1.nxs cannot be reached (Too many levels "
        "of symbolic links)",
        link("raw/r1.nxs", "r1.nxs"),
    ),
    Case(
        "raw file that is a link to nowhere",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 1: raw file raw/r1.nxs does not exist (a link to "
        "../elsewhere/r1.nxs)",
        link("raw/r1.nxs", "../elsewhere/r1.nxs"),
    ),
    Case(
        "image that is a link to nowhere",
        IMPORT_SERIES,
        "image raw/r3_0003.cbf does not exist (a link to ../elsewhere/r3.cbf); copy it again",
        link("raw/r3_0003.cbf", "../elsewhere/r3.cbf"),
    ),
    Case(
        "raw folder that is a link to itself",
        CHECK,
        "4 problems in the experiment:\n"
        "  …/config/scans.tsv, row 1: raw file raw/r1.nxs cannot be reached (Too many levels "
        "of symbolic links)\n"
        "  …/config/scans.tsv, row 2: raw file raw/r2_master.h5 cannot be reached (Too many "
        "levels of symbolic links)\n"
        "  …/config/scans.tsv, row 3: folder …/raw of the images …/raw/r3_####.cbf does not "
        "exist; check the path\n"
        "  config: calibrations.lab: raw/lab.poni cannot be reached (Too many levels of "
        "symbolic links)",
        moved_into_itself,
    ),
    Case(
        "pipe in the place of a table",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv is a pipe, not a file; `hklflow init` makes the tables",
        pipe(SCANS),
    ),
    Case(
        "/dev/zero in the place of a table",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv is a device, not a file; `hklflow init` makes the tables",
        link(SCANS, "/dev/zero"),
    ),
    Case(
        "pipe in the place of the configuration",
        CHECK,
        "…/config/config.yaml is a pipe, not a file; create an experiment with `hklflow init …`,"
        " or give the folder of an experiment",
        pipe(CONFIG),
    ),
    Case(
        "/dev/zero in the place of the configuration",
        CHECK,
        "…/config/config.yaml is a device, not a file; create an experiment with `hklflow init "
        "…`, or give the folder of an experiment",
        link(CONFIG, "/dev/zero"),
    ),
    Case(
        "pipe in the place of the mask file",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: pixel_mask: config/mask.yaml is a pipe, not a file",
        pipe(MASK),
    ),
    Case(
        "pipe in the place of the mask file, to be drawn",
        MASK_SHOW,
        "the mask file config/mask.yaml is a pipe, not a file; check the path",
        pipe(MASK),
    ),
    Case(
        "pipe in the place of the mask file, to be added to",
        MASK_IMPORT,
        "the mask file …/config/mask.yaml is a pipe, not a file; check the path",
        pipe(MASK),
    ),
    Case(
        "pipe in the place of the PONI file",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: calibrations.lab: raw/lab.poni is a pipe, not a file",
        pipe(PONI_FILE),
    ),
    Case(
        "/dev/zero in the place of the PONI file",
        PONI,
        "poni: raw/lab.poni is a device, not a file; make it first or correct the path",
        link(PONI_FILE, "/dev/zero"),
    ),
    Case(
        "pipe in the place of an orientation",
        "hklflow model show raw/refined.expt",
        "orientation raw/refined.expt is a pipe, not a file; check the path",
        pipe("raw/refined.expt"),
    ),
    Case(
        "folder to be shown",
        "hklflow show raw",
        "raw is a folder; give a file in it",
        good="hklflow show raw/r1.nxs",
    ),
    Case(
        "pipe to be shown",
        "hklflow show raw/r1.nxs",
        "the file raw/r1.nxs is a pipe, not a file; check the path",
        pipe("raw/r1.nxs"),
    ),
    Case(
        "device to be shown",
        "hklflow show /dev/zero",
        "the file /dev/zero is a device, not a file; check the path",
        good="hklflow show raw/r1.nxs",
    ),
    Case(
        "/dev/zero as facility file",
        CHECK,
        "1 problem in the experiment:\n"
        "  config: facility: configuration /dev/zero is a device, not a file; correct the path",
        edited(CONFIG, ("calibrations:", "facility: /dev/zero\ncalibrations:")),
    ),
    Case(
        "full disk, at an import",
        IMPORT,
        "no space left on device where the outputs are written; free some disk space and run again",
        around=full_disk,
    ),
    Case(
        "full disk, at the import of a PONI file",
        PONI,
        "no space left on device where the outputs are written; free some disk space and run again",
        around=full_disk,
    ),
    Case(
        "full disk, at one more row of a table",
        ADD,
        "no space left on device where the outputs are written; free some disk space and run again",
        around=full_config,
    ),
    Case(
        "full disk, at one more step of a mask",
        MASK_IMPORT,
        "no space left on device where the outputs are written; free some disk space and run again",
        around=full_config,
    ),
    Case(
        "full disk, at an export to DIALS",
        EXPORT.replace("x.expt", "new/x.expt"),
        "no space left on device where the outputs are written; free some disk space and run again",
        around=full_disk,
        good=EXPORT,
    ),
    Case(
        "full disk, at a picture",
        MASK_SHOW + " -o new/mask.png",
        "no space left on device where the outputs are written; free some disk space and run again",
        around=full_disk,
        good=MASK_SHOW + " -o mask.png",
    ),
    Case(
        "picture in a folder that is not there",
        MASK_SHOW + " -o new/mask.png",
        "the folder of new/mask.png does not exist; make it first",
        good=MASK_SHOW + " -o mask.png",
    ),
    Case(
        "new experiment in the place of a file",
        "hklflow init raw/r1.nxs",
        "raw/r1.nxs cannot be made (File exists); choose a folder that you may write to",
        good="hklflow init elsewhere",
    ),
    Case(
        "new experiment below a file",
        "hklflow init raw/r1.nxs/x",
        "raw/r1.nxs/x cannot be made (Not a directory); choose a folder that you may write to",
        good="hklflow init elsewhere",
    ),
    Case(
        "new experiment in a read-only folder",
        "hklflow init raw/x",
        "raw/x cannot be made (Permission denied); choose a folder that you may write to",
        mode("raw", 0o555),
        good="hklflow init raw/x",
        forbidden=True,
    ),
    Case(
        "check of a file",
        "hklflow check raw/r1.nxs",
        "…/raw/r1.nxs/config/config.yaml cannot be reached (Not a directory); create an "
        "experiment with `hklflow init …/raw/r1.nxs`, or give the folder of an experiment",
        good="hklflow check .",
    ),
    Case(
        "check of a link to itself",
        "hklflow check loop",
        "…/loop: too many levels of symbolic links; correct the path",
        link("loop", "loop"),
        good="hklflow check .",
    ),
    Case(
        "check of a folder with a name of 300 letters",
        "hklflow check " + 300 * "x",
        "…/xxx… (300 characters) …xxx/config/config.yaml"
        " cannot be reached (File name too long); create an experiment with `hklflow init "
        "…/xxx… (302 characters) …xxx`,"
        " or give the folder of an experiment",
        good="hklflow check .",
    ),
    Case(
        "output in the place of the raw file",
        IMPORT.replace("new/scan.nxs", "raw/r1.nxs"),
        "scan: raw/r1.nxs is a file that is read; give the output another name",
        good=IMPORT,
    ),
]
