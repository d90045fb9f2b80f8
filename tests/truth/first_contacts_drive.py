"""A stranger at the command line: imports a first contact, runs it to the orientation, judges it.

Only documented commands, files and products are used. What the documentation says must be stated
(directions of axes, arm, polarisation, monitor, gain) the stranger states, except for what a fault
withholds.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import hklflow

from tests.truth.first_contacts import CCD, FAULTS, LOGGED, OFFSET, READ_NOISE, Contact
from tests.truth.first_contacts_crystal import Array, cell_of

SOURCES = {"cbf mini": "cbf", "cbf sparse": "cbf", "cbf full": "cbf"}
NAMES = {  # what a sentence must say to name a class
    "centre": r"beam cent|detector arm|the arm|\barm=|shift=",
    "scale": r"distance|wavelength|told_cell|cell.{0,60}(differ|deviat)|pixels? of another size",
    "hand": r"sense of (the )?rotation|mirrored|opposite sign|rotation axis|turns? the other way",
    "cell": r"\bcell\b|setting|space group",
    "gain": r"\bgain\b",
    "doubled": r"copy|copies|leave_out",
    "missing": r"missing|absent|gap in",
}


SOURCE = Path(hklflow.__file__).parents[1]
TEMPLATE: Path | None = None  # an experiment that `hklflow init` has made, to save time
TOOLS: Path | None = None  # commands that fork from a process, to save time (tests/forked.py)
PRELOAD = [
    "hdf5plugin",
    "fabio",
    "numba",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_agg",
    "snakemake.api",
    "snakemake.scheduling.job_scheduler",
    "snakemake.report.html_reporter",
    "cctbx.sgtbx",
    "cctbx.uctbx",
    "cctbx.array_family.flex",
    *sorted(
        ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for path in SOURCE.glob("hklflow/*/*.py")
        if path.parent.name != "dials" and path.name != "__init__.py"
    ),
]


@dataclass
class Heard:
    """What was said, and what came out."""

    stopped: str = ""  # the command that refused
    sentences: list[str] = field(default_factory=list)
    verdict: str = ""
    orientation: dict[str, Any] | None = None
    traceback: str = ""
    log: str = ""
    seconds: float = 0.0


@dataclass
class Judged:
    outcome: str
    named: bool | None
    pasted: str  # "", "right", "still wrong", "nothing to paste"
    heard: Heard
    error: tuple[float, float]  # degrees, relative error of the cell
    remedy: str = ""
    second: Heard | None = None


def run(command: list[str], folder: Path, heard: Heard) -> int:
    before = [str(TOOLS)] if TOOLS else []
    path = os.pathsep.join([*before, str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "COLUMNS": "10000"}
    program, begin = shutil.which(command[0], path=path), time.monotonic()
    done = subprocess.run(
        [program or command[0], *command[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=600,
    )
    text = done.stdout + done.stderr
    heard.log += f"$ {' '.join(command)}\n{text}\n"
    heard.log += f"exit code {done.returncode}, {time.monotonic() - begin:.1f} s\n"
    if "Traceback (most recent call last)" in text:
        heard.traceback = text[text.index("Traceback") :][-1500:]
    return done.returncode


def _statements(c: Contact, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the configuration that the user writes, and the arguments of the import."""
    config: dict[str, Any] = {"import_scan": {"monitor": "none"}}
    arguments = ["--sample", "sugar", "--polarization", "0.99"]
    if c.kind in ("nxmx", "cbf full"):
        arguments = arguments[:2] if c.kind == "nxmx" else arguments
    else:
        stated = list(c.axes)
        if c.kind == "marccd":  # its header has all four circles, at zero where there is none
            known = dict(stated)
            stated = [(n, known.get(n, stated[0][1])) for n in ("omega", "chi", "kappa", "phi")]
        axes = [f"{n}=" + ",".join(f"{x:g}" for x in v) for n, v in stated]
        config["import_scan"]["axes"] = axes
    if c.kind == "cbf sparse":
        arguments += ["--option", "axis=phi"]
    if any(s.arm for s in c.stated) and c.kind not in ("nxmx", "cbf full") and not c.poni:
        arguments += ["--option", "arm=" + ",".join(f"{x:g}" for x in c.stated[0].arm_axis)]
    if c.poni:
        config["calibrations"] = {"lab": {"poni": str(folder / "lab.poni"), "polarization": 0.99}}
        arguments += ["--calibration", "lab"]
    if c.kind in LOGGED:
        arguments += ["--option", f"log={folder}/{{series}}.csv"]
    if c.cif:
        arguments += ["--cif", str(folder / "crystal.cif")]
    if c.kind in CCD and c.fault != "no gain":
        config["import_scan"] |= {"gain": c.gain, "offset": OFFSET, "read_noise": READ_NOISE}
    return config, arguments


def _merged(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {k: _merged(old.get(k), new.get(k)) for k in {**old, **new}}
    if isinstance(old, list) and isinstance(new, list):
        return new + [x for x in old if x not in new]
    return old if new is None else new


def _write_config(home: Path, more: dict[str, Any]) -> None:
    path = home / "config" / "config.yaml"
    config = yaml.safe_load(path.read_text()) or {}
    path.write_text(yaml.safe_dump(_merged(config, more), sort_keys=False))


def _rows(home: Path) -> list[dict[str, str]]:
    lines = (home / "config" / "scans.tsv").read_text().splitlines()
    return list(csv.DictReader([x for x in lines if not x.startswith("#")], delimiter="\t"))


def contact(c: Contact, folder: Path, home: Path) -> Heard:
    """Make an experiment of raw data in `folder`, in `home`."""
    heard, begin = Heard(), time.monotonic()
    if TEMPLATE is None or not TEMPLATE.exists():
        run(["hklflow", "init", str(home)], folder.parent, heard)
    else:
        shutil.copytree(TEMPLATE, home, symlinks=True)
    config, arguments = _statements(c, folder)
    _write_config(home, config)
    source = SOURCES.get(c.kind, c.kind)
    command = ["hklflow", "import", str(folder), "--from", source, *arguments]
    code = run(command, home, heard)
    imported = heard.log[heard.log.rindex("$ hklflow import") :]
    if code or not _rows(home):
        heard.stopped = "import"
        heard.sentences = [x.strip() for x in imported.splitlines() if x.strip()][1:]
    else:
        notes = [x.strip() for x in imported.splitlines() if re.search("not imported|conflict", x)]
        reduce(home, heard)
        heard.sentences = notes + heard.sentences
        if len(_rows(home)) < len(c.sweeps):
            heard.stopped = heard.stopped or "import (a part)"
            heard.sentences += [x.strip() for x in imported.splitlines() if x.strip()][1:]
    heard.seconds = time.monotonic() - begin
    return heard


def reduce(home: Path, heard: Heard) -> None:
    """Check the experiment, run it to the gates of its scans, and read the products."""
    if run(["hklflow", "check"], home, heard):
        heard.stopped = "check"
        text = heard.log[heard.log.rindex("$ hklflow check") :]
        heard.sentences = [x.strip() for x in text.splitlines() if x.strip()][1:-1]
        return
    folders = sorted({f"results/{r['sample']}/{r['scan']}" for r in _rows(home)})
    targets = [f"{f}/accepted.json" for f in folders]
    code = run(["snakemake", "--cores", "1", *targets], home, heard)
    text = heard.log[heard.log.rindex("$ snakemake") :]
    said = re.findall(r"^hklflow [a-z_]+: .*$", text, re.MULTILINE)
    heard.sentences = list(dict.fromkeys(said))
    if code:
        run(["hklflow", "status"], home, heard)
        heard.stopped = said[0].split()[1].rstrip(":") if said else "snakemake"
    product = home / folders[0] / "orientation.json"
    if product.exists():
        heard.orientation = json.loads(product.read_text())
    accepted = home / folders[0] / "accepted.json"
    if accepted.exists():
        found = json.loads(accepted.read_text())
        heard.verdict = found["verdict"]
        heard.sentences += [str(x) for x in (*found["sentences"], *found["doubts"])]


def error(c: Contact, orientation: dict[str, Any]) -> tuple[float, float, bool]:
    """Return errors (degrees, relative of the cell), and whether both are within the limits."""
    found = np.array(orientation["UB"])
    truth = c.crystal.primitive
    index = np.linalg.solve(truth, found)  # primitive indices of the found axes
    # A found centred cell has reciprocal axes that are absent in the primitive lattice.
    change = np.rint(index * 6) / 6
    if abs(np.abs(change - index).max()) > 0.08 or abs(np.linalg.det(change)) < 0.1:
        return np.inf, np.inf, False
    expected = truth @ change
    if not _same_lattice(c, orientation, np.linalg.inv(expected)):
        return np.inf, np.inf, False
    strain = found @ np.linalg.inv(expected)
    u, _, vt = np.linalg.svd(strain)
    R = u @ vt
    turned = np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]])
    angle = float(np.degrees(np.arcsin(min(1, np.linalg.norm(turned) / 2))))
    cell, right = cell_of(found), cell_of(expected)
    off = np.abs(cell - right)
    relative = np.r_[off[:3] / right[:3], np.radians(off[3:])]
    sigma = np.nan_to_num(np.array(orientation["cell_sigma"], float))
    own = 5 * float(np.linalg.norm(np.nan_to_num(orientation["orientation_sigma_deg"])))
    good = angle < max(0.1, own) and bool(np.all((relative < 1e-3) | (off < 5 * sigma)))
    return angle, float(relative.max()), good


def _same_lattice(c: Contact, orientation: dict[str, Any], inverse: Array) -> bool:
    """Whether cell and centring of the result give the same number of lattice points."""
    import gemmi

    centring = gemmi.SpaceGroup(orientation["space_group"]).centring_type()
    points = {"F": 4, "R": 3, "P": 1}.get(centring, 2)
    volume = np.abs(np.linalg.det(inverse)) / points * np.abs(np.linalg.det(c.crystal.primitive))
    return bool(abs(volume - 1) < 0.02)


def _remedies(c: Contact, heard: Heard) -> list[str]:
    """Return texts to paste, that of the true cause first."""
    found: list[str] = []
    for sentence in heard.sentences:
        found += [t for t in re.findall(r"`([^`]+)`", sentence) if re.search(r"[:=]\S|: ", t)]
    found = [t for t in found if not re.search(r"\br\d+b\b", t)]  # these need more rows
    words = {
        "distance": "distance",
        "wavelength": "wavelength",
        "mirrored": "mirrored",
        "beam centre": "shift",
        "stale poni": "shift",
        "arm missing": "arm",
        "doubled frame": "leave_out",
        "no gain": "gain",
    }
    word = words.get(c.fault, "")
    return sorted(dict.fromkeys(found), key=lambda t: not (word and word in t))


def paste(text: str, home: Path, sentences: list[str]) -> bool:
    """Put a remedy where it belongs; return whether it is one that can be put anywhere."""
    if re.fullmatch(r"(\S+=[-\d.:]+ ?)+", text):
        pairs = re.findall(r"`((?:[a-z_]+=[-\d.:]+ ?)+)`(?: for (\w+))?", " ".join(sentences))
        settings = {rotation: setting for setting, rotation in pairs}
        path = home / "config" / "scans.tsv"
        lines = path.read_text().splitlines()
        names = next(x for x in lines if not x.startswith("#")).split("\t")
        column, which = names.index("goniometer"), names.index("rotation")
        for i, line in enumerate(lines):
            cells = line.split("\t")
            new = settings.get(cells[which]) or settings.get("") if cells[0] == "sugar" else None
            if new:
                old = dict(x.split("=") for x in cells[column].split())
                turned = {**old, **dict(x.split("=") for x in new.split())}
                cells[column] = " ".join(f"{k}={v}" for k, v in turned.items())
                lines[i] = "\t".join(cells)
        path.write_text("\n".join(lines) + "\n")
        return True
    if short := re.fullmatch(r"(\w+): (\w+): ([^{}]+)", text):  # a section and its key in one line
        text = f"{short[1]}: {{{short[2]}: {short[3]}}}"
    try:
        more = yaml.safe_load(text)
    except yaml.YAMLError:
        return False
    if not isinstance(more, dict) or not all(isinstance(v, dict) for v in more.values()):
        return False
    _write_config(home, more)
    return True


def judge(c: Contact, folder: Path, home: Path) -> Judged:
    """Run a contact, and judge it; paste what is proposed if something is wrong."""
    heard = contact(c, folder, home)
    angle, cell, good = (
        error(c, heard.orientation) if heard.orientation else (np.inf, np.inf, False)
    )
    said = bool(heard.stopped) or heard.verdict in ("doubtful", "failed")
    if heard.traceback:
        outcome = "crash"
    elif good and not said:
        outcome = "right"
    elif good and not c.fault:
        outcome = "needless doubt"
    elif said:
        outcome = "reported" if c.fault or heard.orientation else "refused without cause"
    else:
        outcome = "silent"
    text = " ".join(heard.sentences)
    named = bool(re.search(NAMES[FAULTS[c.fault]], text, re.I)) if c.fault and said else None
    result = Judged(outcome, named, "", heard, (angle, cell))
    if (
        outcome not in ("reported", "refused without cause", "needless doubt")
        or heard.stopped == "import"
    ):
        return result
    result.pasted = "nothing to paste"
    for remedy in _remedies(c, heard)[:6]:
        if paste(remedy, home, heard.sentences):
            result.remedy, again = remedy, Heard()
            reduce(home, again)
            result.second = again
            good = bool(again.orientation) and error(c, again.orientation or {})[2]
            good = good and again.verdict in ("passed", "doubtful") and not again.stopped
            result.pasted = f"right ({again.verdict})" if good else "still wrong"
            break
    return result
