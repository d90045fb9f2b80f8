"""Simulated phase transitions: the remedy that the gates propose is pasted and run.

A parent is refined, its child from the parent's orientation, and judged. What the sentence
says is to be pasted is read from it as YAML and done. The answer is compared with the truth of
`worlds.py`, by lattices and not by settings. As a script: a table of all kinds.
"""

import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.geometry import symmetry
from hklflow.stages import accept, refine, refine_parent
from tests.truth.pictures import without_pictures
from tests.truth.world_scans import answered, written
from tests.truth.worlds import BRAGG, World, systems_of, world
from tests.truth.worlds_physics import cell_of_axes, direct_basis
from tests.truth.worlds_transitions import EVERY_TRANSITION

Floats = NDArray[np.float64]

SIZES = {"first-order": 0.03}  # beyond what 200 K of thermal expansion may make
INDEXED = 0.95
PULLS = 5.0
STRAIN = 2e-4  # the limit below which the gates call no relation broken
_OWN = {"sample": "s", "scan": "b", "rotations": ["r0"]}


@dataclass(frozen=True)
class Outcome:
    """What became of a child.

    Attributes
    ----------
    wrong : str
        Empty if the remedy is right.
    sentences : str
        Of the gates.
    cell : list of float
        What the remedy says, or none.
    """

    wrong: str
    sentences: str
    remedy: dict[str, Any]


def transformed(kind: str, seed: int, **options: Any) -> World:
    """Return the child of a transition; its parent is its attribute."""
    (system,) = systems_of("transition", kind)
    return world(f"transition:{kind}", system, seed, SIZES.get(kind), **options)


def remedy(sentence: str) -> dict[str, Any]:
    """Return what the sentence says of the scan in config.yaml; empty: nothing."""
    found = re.search(r"in config\.yaml `(.*?)`", sentence)
    return {} if found is None else dict(yaml.safe_load(found[1])["per_scan"]["s/b"])


@without_pictures()
def tried(child: World, folder: Path) -> Outcome | None:
    """Refine parent and child, judge, do what is said. None: the parent cannot be refined."""
    assert child.parent is not None
    if answered(child.parent, folder / "parent").refusal:
        return None
    inputs = written(child, folder / "child")
    parent = folder / "parent" / "parent.json"
    orientation = folder / "child" / "orientation.json"
    try:
        refine.main(
            inputs=refine.Inputs(parent=parent, **inputs),
            outputs=refine.Outputs(orientation=orientation, picture=folder / "o.png"),
            params=refine.Params(**_OWN),
        )
    except HklflowError as error:
        return Outcome(f"refine: {error}", "", {})
    said = verdict(orientation, parent, folder)
    if not said:
        return Outcome("nothing was noticed", "", {})
    todo = remedy(said)
    if not todo:
        return Outcome("no remedy", said, {})
    if "refine_parent" not in todo:
        return Outcome(_kept(child, orientation, parent, folder, todo), said, todo)
    new = folder / "child" / "parent.json"
    start = orientation if "orientation" in todo else None
    if start is not None and "copy results/s/b/orientation.json to b_start.json" not in said:
        return Outcome("nobody made the start", said, todo)
    try:
        refine_parent.main(
            inputs=refine_parent.Inputs(start=start, **inputs),
            outputs=refine_parent.Outputs(orientation=new, picture=folder / "n.png"),
            params=refine_parent.Params(grid_limits=(1, 1, 1), **_OWN, **todo["refine_parent"]),
        )
    except HklflowError as error:
        return Outcome(f"refine_parent: {error}", said, todo)
    if more := verdict(new, new, folder, **todo.get("accept", {})):
        return Outcome(f"not accepted: {more}", said, todo)
    return Outcome(compared(child, stage.read_json(new)), said, todo)


def verdict(orientation: Path, parent: Path, folder: Path, **limits: Any) -> str:
    """Return the sentences with which a scan is refused; empty: it is accepted."""
    try:
        accept.main(
            inputs=accept.Inputs(orientation=orientation, parent=parent),
            outputs=accept.Outputs(accepted=folder / "accepted.json"),
            params=accept.Params(**limits),
        )
    except HklflowError as error:
        return str(error)
    return ""


def _kept(child: World, orientation: Path, parent: Path, folder: Path, todo: dict[str, Any]) -> str:
    """Say what is wrong where the scan keeps its parent."""
    if EVERY_TRANSITION[child.kind.partition(":")[2]].q is None:
        return "the remedy keeps the parent's cell"
    if more := verdict(orientation, parent, folder, **todo["accept"]):
        return f"not accepted: {more}"
    return compared(child, stage.read_json(orientation))


def compared(child: World, data: dict[str, Any]) -> str:
    """Say in what a lattice differs from the truth's; empty: in nothing."""
    wanted = INDEXED
    if EVERY_TRANSITION[child.kind.partition(":")[2]].q is not None:
        wanted *= float(np.mean(child.peaks["origin"] == BRAGG))
    fraction = data["metrics"]["fraction indexed"]
    if fraction < wanted:
        return f"{fraction:.1%} of the peaks are indexed"
    mine, true = (symmetry.space_group(x) for x in (data["space_group"], child.true_space_group))
    T = np.linalg.inv(np.array(data["UB"])) @ child.UB  # h_found = T h_true
    primitive = mine.to_primitive @ T @ np.linalg.inv(true.to_primitive)
    if np.abs(primitive - np.rint(primitive)).max() > 0.1:
        return f"another lattice: in primitive cells T = {np.round(primitive, 3).tolist()}"
    ratio = round(abs(np.linalg.det(np.rint(primitive))))
    if ratio != 1:
        return f"the lattice has {ratio} times the true one's primitive cell"
    exact = np.linalg.inv(mine.to_primitive) @ np.rint(primitive) @ true.to_primitive
    axes = direct_basis(child.UB @ np.linalg.inv(exact))
    truth = cell_of_axes(axes)
    cell, sigma = np.array(data["cell"]), np.array(data["cell_sigma"])
    off = cell - truth
    relative = np.where(np.arange(6) < 3, off / truth, np.radians(off))
    with np.errstate(divide="ignore", invalid="ignore"):
        pulls = np.where(sigma > 0, np.abs(off) / sigma, np.abs(relative) / STRAIN * PULLS)
    if pulls.max() > PULLS:
        return f"the cell is {pulls.max():.1f} sigma off: {np.round(off, 5).tolist()}"
    return ""


def table(seeds: list[int], kinds: list[str]) -> None:
    """Print what is right of how many, kind by kind, and what is wrong."""
    for kind in kinds:
        wrong: Counter[str] = Counter()
        n = 0
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                outcome = tried(transformed(kind, seed), Path(folder))
            if outcome is None:
                continue
            n += 1
            if outcome.wrong:
                wrong[outcome.wrong] += 1
                print(f"   {kind} {seed}: {outcome.wrong} | {outcome.sentences}", flush=True)
        print(f"{kind:28} {n - wrong.total():3} of {n}", flush=True)


if __name__ == "__main__":
    first, last = (int(x) for x in sys.argv[1].split("-"))
    table(list(range(first, last + 1)), sys.argv[2:] or list(EVERY_TRANSITION))
