"""What `hklflow import` finds in the files of an instrument."""

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py

from .cases import Case, Spoil, cut, inside, several, written
from .experiment import CHECK
from .raw_files import pipe
from .tables import TOO_LONG, scans

RAW = "raw/repeated.nxs"
NXMX = f"hklflow import {RAW} --from nxmx --sample new"
SPEC = "hklflow import run.spec --from spec"


def _named(folder: Path, **samples: str) -> None:
    """Raw files of crystals with these names, in a folder of their own."""
    (folder / "two").mkdir()
    for file, sample in samples.items():
        shutil.copy(folder / RAW, folder / f"two/{file}.nxs")
        with h5py.File(folder / f"two/{file}.nxs", "r+") as opened:
            del opened["entry/sample/name"]
            opened["entry/sample/name"] = sample


def _spec(columns: int = 2, motor_lines: int = 1) -> str:
    """Text of a SPEC file with one scan."""
    motors = "".join(f"#O{i} a{i}  b{i}  c{i}  d{i}\n" for i in range(motor_lines))
    labels = "  ".join(f"c{i}" for i in range(columns))
    row = " ".join(["1"] * columns)
    return f"#F run.spec\n{motors}#S 1  ascan phi 0 10 5 1\n#N {columns}\n#L {labels}\n{row}\n"


def _member(name: str, make: Callable[[h5py.File, str], None]) -> Spoil:
    """Put something else in the place of a member of the raw file."""

    def change(file: h5py.File) -> None:
        file.pop(f"entry/{name}", None)
        make(file, f"entry/{name}")

    return inside(RAW, change)


def _circle(file: h5py.File, path: str) -> None:
    file[path] = h5py.SoftLink(f"/{path}")


CASES = [
    Case(
        "import of a file whose sample's name is a link to itself",
        NXMX,
        "/entry/sample/name in …/raw/repeated.nxs is a link that leads back to itself; the file is "
        "damaged: copy it again",
        _member("sample/name", _circle),
    ),
    Case(
        "import of a file whose definition is a group",
        NXMX,
        "/entry/definition in …/raw/repeated.nxs is a group, not a value; correct the file",
        _member("definition", h5py.File.create_group),
    ),
    Case(
        "import of a file whose chi is a group",
        NXMX,
        "/entry/sample/goniometer/chi in …/raw/repeated.nxs has no value; correct the file",
        _member("sample/goniometer/chi", h5py.File.create_group),
    ),
    Case(
        "import from an unknown beamline",
        NXMX.replace("nxmx", "mx"),
        "there is no beamline 'mx'; use one of …",
        good=NXMX,
    ),
    Case(
        "import of what is not there",
        NXMX.replace("repeated", "gone"),
        "raw/gone.nxs does not exist; check the path",
        good=NXMX,
    ),
    Case(
        "import that does not say from where",
        f"hklflow import {RAW}",
        'Command "import" parameter --from requires an argument.',
        good=NXMX,
    ),
    Case(
        "import of a truncated file",
        NXMX,
        "…/raw/repeated.nxs cannot be opened as HDF5 (…); it is truncated or still being "
        "written: copy it again",
        cut(RAW),
    ),
    Case(
        "import of a pipe",
        NXMX,
        "…/raw/repeated.nxs cannot be read (Not a directory); ask for access",
        pipe(RAW),
    ),
    Case(
        "import from a folder without scans",
        "hklflow import config --from nxmx",
        "…/config has no NXmx file of a scan; enter another folder",
        good=NXMX,
    ),
    Case(
        "import of two crystals whose names are one without Greek letters",
        "hklflow import two --from nxmx",
        "'α-Al2O3' (a.nxs) and 'β-Al2O3' (b.nxs) would all be the sample Al2O3, because names have "
        "letters, digits, '.', '+' and '-' only; import them one by one: `--sample alpha-Al2O3` "
        "and `--sample beta-Al2O3` (each with its file, or --scans), or all together with "
        "`--sample Al2O3` if they are one sample",
        lambda folder: _named(folder, a="α-Al2O3", b="β-Al2O3"),
        good=NXMX,
    ),
    Case(
        "import of PMN/PT, PMN PT and PMN_PT",
        "hklflow import two --from nxmx",
        "'PMN/PT' (a.nxs), 'PMN PT' (b.nxs) and 'PMN_PT' (c.nxs) would all be the sample PMN-PT, "
        "because names have letters, digits, '.', '+' and '-' only; import them one by one: "
        "`--sample PMN-PT-1`, `--sample PMN-PT-2` and `--sample PMN-PT-3` (each with its file, or "
        "--scans), or all together with `--sample PMN-PT` if they are one sample",
        lambda folder: _named(folder, a="PMN/PT", b="PMN PT", c="PMN_PT"),
        good=NXMX,
    ),
    Case(
        "import of a sample with a name of 5,000 letters",
        NXMX.replace("new", 5000 * "n"),
        "repeated.nxs: sample nnnnnnnnnnnnnnnnnnnn... has 5000 letters; "
        f"{TOO_LONG}; give --sample a short one",
        good=NXMX,
    ),
    Case(
        "import with an unknown space group",
        NXMX + " --space-group P7",
        "…/config/samples.tsv, row 2: unknown space group 'P7'; use a Hermann-Mauguin symbol "
        "(Fd-3m, P 1 21/c 1, R -3 c :H), a Hall symbol or a number from 1 to 230",
        good=NXMX,
    ),
    Case(
        "import with a cell of length 0",
        NXMX + " --cell 0 5 5 90 90 90",
        "…/config/samples.tsv, row 2: cell 0 5 5 90 90 90 has no volume; enter lengths in Å "
        "and angles in degrees",
        good=NXMX,
    ),
    Case(
        "import with a cell at odds with the space group",
        NXMX + " --cell 5 5 9 90 90 90 --space-group Pm-3m",
        "…/config/samples.tsv, row 2: the cell 5 5 9 90 90 90 does not fit P m -3 m (cubic), "
        "for which it would be 6.6081 6.6081 6.6081 90 90 90; correct one of them (P 1 if the"
        " space group is not known)",
        good=NXMX,
    ),
    Case(
        "import with a parent that is no scan",
        NXMX + " --parent 30K",
        "scan new 300K: its parent '30K' is not a scan",
        good=NXMX,
    ),
    Case(
        "import with a temperature below 0 K",
        NXMX + " --temperature=-5",
        "--temperature: temperature -5 K is outside the plausible range 0.001 to 5000 K "
        "(entered in °C?); enter it in K",
        good=NXMX,
    ),
    Case(
        "import with a polarisation in percent",
        NXMX + " --polarization 99",
        "--polarization 99 is not a fraction; give 0 to 1 (0.5: unpolarised)",
        good=NXMX,
    ),
    Case(
        "import with a negative saturation",
        NXMX + " --saturation=-1",
        "--saturation -1 is not a number of counts; give a number above 0",
        good=NXMX,
    ),
    Case(
        "import of scans 9 to 3",
        NXMX + " --scans 9-3",
        "--scans '9-3' is not a range of scans; write first-last",
        good=NXMX,
    ),
    Case(
        "import with an unknown option",
        NXMX + " --option x=1",
        "--option 'x=1' is not one `name=value` of nxmx's own options (instrument: instrument "
        "whose conventions the files follow, if they state no axes (see docs/instruments.md); arm: "
        "axis of the detector's arm, a lab vector x,y,z, if the files state only its angle)",
        good=NXMX,
    ),
    Case(
        "import with a calibration that is not defined",
        NXMX + " --calibration lap",
        "…/config/scans.tsv, row 4: there is no calibration 'lap': the configuration defines lab",
        good=NXMX,
    ),
    Case(
        "SPEC file that is none",
        SPEC,
        "…/run.spec has no line #S: it is not a SPEC file, or has no scans",
        written("run.spec", "hello\n" * 9),
        good=NXMX,
    ),
    Case(
        "SPEC file of 0 bytes",
        SPEC,
        "…/run.spec has no line #S: it is not a SPEC file, or has no scans",
        written("run.spec", ""),
        good=NXMX,
    ),
    Case(
        "SPEC file that is no text",
        SPEC,
        "…/run.spec has no line #S: it is not a SPEC file, or has no scans",
        written("run.spec", bytes(range(256)) * 9),
        good=NXMX,
    ),
    Case(
        "SPEC file with 513 columns",
        SPEC,
        "…/run.spec, line 6 has 513 columns, but only 510 can be read; copy the file without the "
        "parts that you do not need",
        written("run.spec", _spec(columns=513)),
        good=NXMX,
    ),
    Case(
        "SPEC file with 404 motors",
        SPEC,
        "…/run.spec, line 77 has 304 motors so far, but only 300 can be read; copy the file "
        "without the parts that you do not need",
        written("run.spec", _spec(motor_lines=101)),
        good=NXMX,
    ),
    Case(
        "SPEC file with a line of a megabyte",
        SPEC,
        "…/run.spec, line 7 has 1000003 bytes, but only 4999 can be read; copy the file without "
        "the parts that you do not need",
        written("run.spec", _spec() + f"#C {'x' * 1000000}\n"),
        good=NXMX,
    ),
    Case(
        "SPEC file that ends with a file header",
        SPEC,
        "…/run.spec, line 7 is a file header (#F) without a scan; cut the file there",
        written("run.spec", _spec() + "#F run.spec\n#E 1\n"),
        good=NXMX,
    ),
    Case(
        "raw file imported as one of NXRefine",
        NXMX.replace("nxmx", "nxrefine"),
        "…/raw/repeated.nxs has no rotations f1, f2, ... of NXRefine",
        good=NXMX,
    ),
    Case(
        "light scan file that is no HDF5",
        CHECK,
        "1 problem in the experiment:\n"
        "  …/config/scans.tsv, row 1: …/raw/x.scan.nxs cannot be opened as HDF5 (…); it is "
        "truncated or still being written: copy it again",
        several(written("raw/x.scan.nxs", b"x"), scans(("raw/r1.nxs", "raw/x.scan.nxs"))),
    ),
]
