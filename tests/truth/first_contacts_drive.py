"""A stranger at the command line: imports a first contact, runs it to the orientation, judges it.

Only documented commands, files and products are used. What the documentation says must be stated
(directions of axes, arm, polarisation, monitor, gain) the stranger states, except for what a fault
withholds.
"""

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.truth import forks
from tests.truth.first_contacts import CCD, FAULTS, LOGGED, OFFSET, READ_NOISE, Contact
from tests.truth.first_contacts_crystal import Array, cell_of
from tests.truth.first_contacts_paste import (
    asks_for_gain,
    changes,
    options,
    remedies,
    rows_of,
    write_config,
)

SOURCES = {"cbf mini": "cbf", "cbf sparse": "cbf", "cbf full": "cbf"}
NAMES = {  # what a sentence must say to name a class
    "centre": r"beam cent|detector arm|the arm|\barm=|shift=",
    "scale": r"distance|wavelength|told_cell|cell.{0,60}(differ|deviat)|pixels? of another size",
    "hand": r"sense of (the )?rotation|mirrored|opposite sign|rotation axis|turns? the other way",
    "cell": r"\bcell\b|setting|space group",
    "gain": r"\bgain\b|import_scan: offset",
    "doubled": r"copy|copies|leave_out",
    "missing": r"missing|absent|gap in",
    "exposures": r"exposure",
}

TEMPLATE: Path | None = None  # an experiment that `hklflow init` has made, to save time


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
    path = forks.path(commands=True)
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
        config["import_scan"] |= _constants(c)
    return config, arguments


def _constants(c: Contact) -> dict[str, Any]:
    return {"gain": c.gain, "offset": OFFSET, "read_noise": READ_NOISE}


def _import(c: Contact, folder: Path) -> list[str]:
    return ["hklflow", "import", str(folder), "--from", SOURCES.get(c.kind, c.kind)]


def contact(c: Contact, folder: Path, home: Path) -> Heard:
    """Make an experiment of raw data in `folder`, in `home`."""
    heard, begin = Heard(), time.monotonic()
    if TEMPLATE is None or not TEMPLATE.exists():
        run(["hklflow", "init", str(home)], folder.parent, heard)
    else:
        shutil.copytree(TEMPLATE, home, symlinks=True)
    config, arguments = _statements(c, folder)
    write_config(home, config)
    code = run([*_import(c, folder), *arguments], home, heard)
    imported = heard.log[heard.log.rindex("$ hklflow import") :]
    if code or not rows_of(home):
        heard.stopped = "import"
        heard.sentences = [x.strip() for x in imported.splitlines() if x.strip()][1:]
    else:
        notes = [x.strip() for x in imported.splitlines() if re.search("not imported|conflict", x)]
        reduce(home, heard)
        heard.sentences = notes + heard.sentences
        if len(rows_of(home)) < len(c.sweeps):
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
    folders = sorted({f"results/{r['sample']}/{r['scan']}" for r in rows_of(home)})
    targets = [f"{f}/accepted.json" for f in folders]
    code = run(["snakemake", "--cores", "1", *targets], home, heard)
    text = heard.log[heard.log.rindex("$ snakemake") :]
    said = re.findall(r"^hklflow [a-z_]+: .*$", text, re.MULTILINE)
    heard.sentences = [
        part
        for line in dict.fromkeys(said)
        for part in (re.split(r"\. (?=[a-z])", line) if "hklflow accept" in line else [line])
    ]
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


WORDS = {  # in the remedy of a fault
    "distance": "distance",
    "wavelength": "wavelength",
    "axis reversed": "start|=",
    "mirrored": "mirrored",
    "beam centre": "shift",
    "stale poni": "shift",
    "arm missing": "arm",
    "doubled frame": "leave_out",
    "missing frame": "leave_out",
}


def _cure(c: Contact, folder: Path, home: Path, heard: Heard) -> tuple[str, Heard] | None:
    """Paste remedies, that of the true cause first, until one works.

    Return those that were pasted and the last run; None: there is nothing to paste.
    """
    kept, before = home / "config", home / "config_before"
    shutil.copytree(kept, before)
    queue: list[tuple[tuple[str, ...], str]] = [((), one) for one in _sorted(c, heard)]
    tried = 0
    last: tuple[str, Heard] | None = None
    while queue and tried < 3:
        earlier, text = queue.pop(0)
        tried += 1
        shutil.rmtree(kept)
        shutil.copytree(before, kept)
        again = Heard()
        for one in (*earlier, text):
            if not _pasted(c, folder, home, one, again):
                break
        else:
            reduce(home, again)
        last = " + ".join((*earlier, text)), again
        if _right(c, home, again):
            break
        more = [one for one in _sorted(c, again) if one not in (*earlier, text)]
        if not earlier and more:  # a remedy may bring to light what else is to be done
            queue.insert(0, ((text,), more[0]))
    shutil.rmtree(before)
    return last


def _sorted(c: Contact, heard: Heard) -> list[str]:
    word = WORDS.get(c.fault, "")
    found = remedies(heard.sentences)
    found += [s for s in heard.sentences if asks_for_gain(s) or options(s)]
    return sorted(dict.fromkeys(found), key=lambda t: not re.search(word, t))


def _pasted(c: Contact, folder: Path, home: Path, text: str, heard: Heard) -> bool:
    """Do what a remedy says; an import is repeated if the remedy is one of its options."""
    if c.kind in CCD and asks_for_gain(text):  # looked up
        write_config(home, {"import_scan": _constants(c)})
    for step in changes(text):
        step(home)
    given = options(text)
    if not rows_of(home) or given:
        _, arguments = _statements(c, folder)
        more = [x for option in given for x in ("--option", option)]
        table = home / "config" / "scans.tsv"
        if rows_of(home) and TEMPLATE is not None:
            empty = TEMPLATE / "config" / "scans.tsv"
            table.write_text(empty.read_text())
        return not run([*_import(c, folder), *arguments, *more], home, heard)
    return True


def _right(c: Contact, home: Path, heard: Heard) -> bool:
    if not heard.orientation or heard.stopped or heard.verdict not in ("passed", "doubtful"):
        return False
    return error(c, heard.orientation)[2] and not monitor_error(c, home)


def monitor_error(c: Contact, home: Path) -> str:
    """Return how the monitor of a scan contradicts the exposures; empty: it is right."""
    for r, (sweep, times) in enumerate(zip(c.sweeps, c.exposures, strict=True)):
        path = home / f"results/sugar/100K/r{r + 1}/scan.nxs"
        if not path.exists():
            return f"r{r + 1} is absent"
        with h5py.File(path) as file:
            monitor = np.asarray(file["entry/frames/monitor"])
        expected = sweep.exposure * times
        if len(monitor) == len(expected) and not np.allclose(monitor, expected, rtol=1e-3):
            return f"monitor of r{r + 1}: {monitor.min():g} to {monitor.max():g}"
    return ""


def judge(c: Contact, folder: Path, home: Path) -> Judged:
    """Run a contact, and judge it; paste what is proposed if something is wrong."""
    heard = contact(c, folder, home)
    angle, cell, good = (
        error(c, heard.orientation) if heard.orientation else (np.inf, np.inf, False)
    )
    said = bool(heard.stopped) or heard.verdict in ("doubtful", "failed")
    if good and (wrong := monitor_error(c, home)):
        good, heard.sentences = False, [*heard.sentences, f"(not said: {wrong})"]
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
    if outcome in ("reported", "refused without cause", "needless doubt"):
        cured = _cure(c, folder, home, heard)
        result.pasted = "nothing to paste"
        if cured is not None:
            result.remedy, result.second = cured
            good = _right(c, home, result.second)
            result.pasted = f"right ({result.second.verdict})" if good else "still wrong"
    return result
