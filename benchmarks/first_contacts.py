"""First contacts: how often raw data of a stranger's instrument give the right orientation.

``python -m benchmarks.first_contacts N SEED [--keep FOLDER] [--kind FORMAT] [--fault FAULT]`` makes
N folders of raw data with seeds from SEED on (tests/truth/first_contacts.py), and does what a
stranger does with each: import, check, run to the orientation, read, and paste what is proposed.
It prints each world, the table by class, and the failures. `--fault none` takes right headers only.
"""

import argparse
import atexit
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from tests.forked import Forked
from tests.truth import first_contacts_drive
from tests.truth.first_contacts import Contact, draw, write
from tests.truth.first_contacts_drive import Heard, Judged, judge

OUTCOMES = (
    "right",
    "needless doubt",
    "reported",
    "silent",
    "refused without cause",
    "crash",
)


def one(seed: int, kind: str, fault: str | None, keep: Path | None) -> tuple[Contact, Judged]:
    """Make, run and judge a world."""
    c = draw(seed, kind, fault)
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep / f"{seed}" if keep else Path(temporary)
        if keep and folder.exists():
            shutil.rmtree(folder)
        write(c, folder / "raw")
        found = judge(c, folder / "raw", folder / "experiment")
        (folder / "log.txt").write_text(
            found.heard.log + (found.second.log if found.second else "")
        )
    return c, found


def told(c: Contact, j: Judged, *, full: bool) -> str:
    """Return what happened to a world."""
    arms = "/".join(f"{s.arm:g}" for s in c.sweeps)
    text = (
        f"{c.seed} {c.kind} | {c.fault or 'header right'} {c.details} | {c.crystal.group} "
        f"{' '.join(f'{x:g}' for x in c.crystal.cell)}{' CIF' if c.cif else ''} | "
        f"{len(c.sweeps)} x {c.sweeps[0].n_frames} x {c.sweeps[0].step:g} deg, arm {arms}: "
        f"{j.outcome}, {j.error[0]:.3g} deg, cell {j.error[1]:.2g}, {j.heard.seconds:.0f} s"
    )
    if j.heard.orientation:
        sigma = sum(x * x for x in j.heard.orientation["orientation_sigma_deg"]) ** 0.5
        text += f", {j.error[0] / sigma:.0f} of its sigma" if sigma else ""
    text += f", stopped by {j.heard.stopped}" if j.heard.stopped else ""
    text += f", {j.heard.verdict}" if j.heard.verdict else ""
    if c.fault and j.named is not None:
        text += ", named" if j.named else ", not named"
    text += f", pasted: {j.pasted}" if j.pasted else ""
    if full:
        text += "".join(f"\n      {s[:900]}" for s in j.heard.sentences[:8])
        text += f"\n      paste: {j.remedy}" if j.remedy else ""
        if j.second and j.pasted == "still wrong":
            text += "".join(f"\n      then: {s[:500]}" for s in j.second.sentences[:3])
        text += f"\n{j.heard.traceback}" if j.heard.traceback else ""
    return text


def main() -> None:
    """Print worlds, table and failures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--kind", default="")
    parser.add_argument("--fault")
    options = parser.parse_args()
    fault = "" if options.fault == "none" else options.fault
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    failures = []
    template = Path(tempfile.mkdtemp()) / "experiment"
    forked = Forked(template.parent, first_contacts_drive.PRELOAD, ("hklflow", "snakemake"))
    forked.wait()
    atexit.register(forked.end)
    first_contacts_drive.TOOLS = forked.tools
    first_contacts_drive.run(["hklflow", "init", str(template)], template.parent, Heard())
    first_contacts_drive.TEMPLATE = template
    for seed in range(options.seed, options.seed + options.number):
        begin = time.monotonic()
        try:
            c, j = one(seed, options.kind, fault, options.keep)
        except ValueError as failure:
            print(f"{seed}: {failure}", flush=True)
            continue
        good = j.outcome == "right" if not c.fault else j.outcome in ("right", "reported")
        good = good and j.named is not False and j.pasted != "still wrong"
        print(
            f"[{time.monotonic() - begin:.0f} s] {told(c, j, full=bool(c.fault) or not good)}",
            flush=True,
        )
        row = rows[c.fault or f"right: {c.kind}"]
        row[j.outcome] += 1
        row["named"] += bool(j.named)
        row["asked"] += j.named is not None
        row["pasted"] += j.pasted not in ("", "nothing to paste")
        row["paste right"] += j.pasted.startswith("right")
        if not good:
            failures.append(told(c, j, full=False))
    print(f"\n{'class':22s}" + "".join(f"{o:>23s}" for o in OUTCOMES) + "     named  remedy right")
    for name, row in sorted(rows.items()):
        line = f"{name:22s}" + "".join(f"{row[o]:23d}" for o in OUTCOMES)
        print(f"{line}{row['named']:7d}/{row['asked']}{row['paste right']:10d}/{row['pasted']}")
    print("\nfailures:" if failures else "\nno failures")
    print("\n".join(failures))


if __name__ == "__main__":
    main()
