"""What is said of peaks that the crystal does not explain, against what is there.

``python -m benchmarks.leftovers [N] [FIRST] [LINE ...]`` makes N worlds of each line (default 20;
ten times as many without anything) with seeds from FIRST on (default 50000), indexes and refines
each as a parent from its cell alone, and counts what was said:

* right: cell and orientation to 5 σ, and the cause with its size: a crystal's rotation to 0.3° and
  its share to a factor of 1.5, the vector of satellites, the name of a powder, and the number of
  peaks to a factor of 1.5;
* otherwise: another cause, or another size;
* refused, named and not: whether the sentence that ended it names the cause;
* silent: cell and orientation are right, but nothing was said; under "too few" fewer than
  25 resolved peaks of the crystal (10 of other causes) are in the table;
* wrong: nothing was said, and cell or orientation are off by more than 5 σ.
"""

import contextlib
import io
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from tests.truth import worlds
from tests.truth.world_scans import Answer, answered, compared
from tests.truth.worlds_physics import rotation

from hklflow.geometry import lattice, symmetry

_FAR = 5.0  # σ
_TURN = 0.3  # degrees
_FACTOR = 1.5
_CRYSTAL, _OTHER = 25, 10  # resolved peaks from which on a cause is determined
_PLAIN = 10  # times as many worlds without anything
_COLUMNS = (
    "right",
    "otherwise",
    "refused, named",
    "refused, not",
    "silent",
    "too few",
    "wrong",
)
_TWINS = ("twin_nonmerohedral", "twin_pseudomerohedral")
_REMARKS = ("correlated", "not symmetries of", "multiplied by its root")  # on every refinement


@dataclass(frozen=True)
class Line:
    """Worlds of a kind, of sizes between two; of 0 the kind's own."""

    kind: str
    low: float = 0.0
    high: float = 0.0

    def world(self, seed: int) -> worlds.World:
        """Draw one."""
        systems = worlds.systems_of(*self.kind.partition(":")[::2])
        size = None
        if self.high:
            drawn = np.random.default_rng(seed).uniform(*np.log([self.low, self.high]))
            size = float(np.exp(drawn))
        return worlds.world(self.kind, systems[seed % len(systems)], seed, size)


LINES = {
    "second lattice, 2 to 30 %": Line("second_lattice", 0.02, 0.3),
    "second lattice, 30 to 50 %": Line("second_lattice", 0.3, 0.5),
    "non-merohedral twin": Line("twin_nonmerohedral"),
    "pseudo-merohedral twin": Line("twin_pseudomerohedral"),
    "half the wavelength": Line("half_wavelength"),
    "superlattice": Line("superlattice:1/2,1/2,1/2"),
    "superlattice (1/2 0 0)": Line("superlattice:1/2,0,0"),
    "superlattice (1/3 1/3 0)": Line("superlattice:1/3,1/3,0"),
    "incommensurate": Line("superlattice:incommensurate"),
    "ice": Line("rings:ice"),
    "aluminium": Line("rings:aluminium"),
    "copper": Line("rings:copper"),
    "diamond": Line("rings:diamond"),
    "noise": Line("noise"),
    "nothing": Line("plain"),
}
_NAMES = {  # words by which a refusal names the cause
    "second_lattice": "second crystal",
    "twin_nonmerohedral": "twin",
    "twin_pseudomerohedral": "twin",
    "half_wavelength": "half the wavelength",
    "superlattice": "supe",
    "rings": "rings",
    "noise": "no place in particular",
    "plain": "nothing",
}


def verdict(world: worlds.World, answer: Answer) -> str:
    """Name the column of an answer."""
    name = world.kind.partition(":")[0]
    if answer.refusal:
        named = _NAMES[name] in answer.refusal
        return "refused, named" if named else "refused, not"
    spoken = told(answer)
    if name == "plain":
        return "otherwise" if spoken else "wrong" if answer.worst > _FAR else "right"
    if spoken:
        off = min(answer.worst, _of_twin(world, answer)) > _FAR
        if _RIGHT[name](world, answer) and not off:
            return "right"
        # Of few peaks nothing more can be said than how many there are.
        few = resolved(world) < _needed(name) and all("no place in" in text for text in spoken)
        return "too few" if few else "otherwise"
    if min(answer.worst, _of_twin(world, answer)) > _FAR:
        return "wrong"
    return "silent" if resolved(world) >= _needed(name) else "too few"


def told(answer: Answer) -> list[str]:
    """Sentences that are no remarks on every refinement."""
    found = answer.data.get("warnings", [])
    return [text for text in found if not any(word in text for word in _REMARKS)]


def resolved(world: worlds.World) -> int:
    """Count the peaks of the cause that no other spot overlaps."""
    peaks = world.peaks
    return int(np.sum((peaks["origin"] != worlds.BRAGG) & (peaks["merged"] == 1)))


def _needed(name: str) -> int:
    return _CRYSTAL if name in ("second_lattice", *_TWINS) else _OTHER


def _of_twin(world: worlds.World, answer: Answer) -> float:
    """Worst pull against the other crystal, of which the cell and orientation may be as well."""
    if "rotation_matrix" not in world.effects[0]:
        return np.inf
    turn = np.asarray(world.effects[0]["rotation_matrix"])
    other = replace(world, sample=replace(world.sample, U=turn @ world.sample.U))
    return compared(other, answer.data).worst


def _crystal(world: worlds.World, answer: Answer) -> bool:
    """Return True if the largest crystal that was reported is there, by its name."""
    others = answer.data["symmetry"]["other crystals"]
    if not others or (world.kind in _TWINS) != bool(others[0].get("law")):
        return False
    effect: dict[str, Any] = world.effects[0]
    turn, share = np.asarray(effect["rotation_matrix"]), float(effect["share"])
    ub = np.array(answer.data["UB"])
    second = rotation(np.asarray(others[0]["axis"]), others[0]["angle"]) @ ub
    pairs = [(ub, second, share), (second, ub, 1 - share)]  # the larger is not always the first
    for first, other, part in pairs:
        near = _same(world, first, np.eye(3)) and _same(world, other, turn)
        if near and 1 / _FACTOR < others[0]["share"] / part < _FACTOR:
            return True
    return False


def _same(world: worlds.World, ub: Any, turn: Any) -> bool:
    """Return True if a lattice is the crystal's, turned, in whatever choice of its axes."""
    true = turn @ world.UB
    choice = np.rint(np.linalg.solve(true, ub))
    if abs(abs(np.linalg.det(choice)) - 1) > 1e-6:
        return False
    other = true @ choice
    off = lattice.nearest_rotation(ub @ np.linalg.inv(other))
    strained = ub @ np.linalg.inv(other) - off
    angle = np.degrees(lattice.rotation_angle(off, np.eye(3)))
    return bool(angle < _TURN and np.abs(strained).max() < np.radians(_TURN))


def _number(world: worlds.World, found: float) -> bool:
    there = np.sum(world.peaks["origin"] != worlds.BRAGG)
    return bool(there / _FACTOR < found < there * _FACTOR)


def _left(answer: Answer) -> dict[str, Any]:
    found = answer.data["symmetry"]["unindexed"]
    return (
        found[0] if found else {"half the wavelength": 0, "rings": {}, "satellites": [], "rest": 0}
    )


def _half(world: worlds.World, answer: Answer) -> bool:
    return _number(world, _left(answer)["half the wavelength"])


def _rings(world: worlds.World, answer: Answer) -> bool:
    rings = _left(answer)["rings"]
    name = str(world.effects[0]["variant"])
    return list(rings) == [name] and _number(world, rings[name])


def _rest(world: worlds.World, answer: Answer) -> bool:
    left = _left(answer)
    others = answer.data["symmetry"]["other crystals"]
    named = others or left["half the wavelength"] or left["rings"] or left["satellites"]
    return not named and _number(world, left["rest"])


def _satellites(world: worlds.World, answer: Answer) -> bool:
    """Return True if the one vector that was reported is there, or a mate of it."""
    found = _left(answer)["satellites"]
    q = np.asarray(world.effects[0]["q"], dtype=np.float64)
    operations = symmetry.space_group(world.space_group).laue_operations
    away = [
        np.abs(v - w @ q - np.rint(v - w @ q)).max()
        for v in (np.asarray(vector) for vector, _ in found)
        for w in operations
    ]
    return bool(away) and min(away) < 0.02 and _number(world, sum(n for _, n in found))


_RIGHT = {
    "second_lattice": _crystal,
    "twin_nonmerohedral": _crystal,
    "twin_pseudomerohedral": _crystal,
    "half_wavelength": _half,
    "superlattice": _satellites,
    "rings": _rings,
    "noise": _rest,
}


def main(number: int = 20, first: int = 50000, lines: tuple[str, ...] = ()) -> None:
    """Print each answer that is not right, and the table."""
    print(f"{'':28s}" + "".join(f"{name:>16s}" for name in _COLUMNS))
    for label, line in LINES.items():
        if lines and not label.startswith(lines):
            continue
        counts: Counter[str] = Counter()
        for seed in range(first, first + number * (_PLAIN if line.kind == "plain" else 1)):
            world = line.world(seed)
            answer = _answer(world)
            column = verdict(world, answer)
            counts[column] += 1
            if column != "right":
                _print(label, world, answer, column)
        print(f"{label:28s}" + "".join(f"{counts[name]:16d}" for name in _COLUMNS), flush=True)


def _answer(world: worlds.World) -> Answer:
    """Index and refine a world, without the picture."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        patch("hklflow.stage.orientation.picture"),
        patch("hklflow.plots.save"),
    ):
        return answered(world, Path(folder))


def _print(label: str, world: worlds.World, answer: Answer, column: str) -> None:
    effect = world.effects[0]
    there = {k: effect[k] for k in ("size", "share", "angle", "uvw", "q") if k in effect}
    figures = answer.data.get("symmetry", {})
    said = answer.refusal or " | ".join(told(answer))
    fraction = figures.get("fraction unindexed", np.nan)
    print(
        f"  {label} {world.system} {world.seed}: {column}; {there}, {resolved(world)} resolved of "
        f"{len(world.peaks['frame'])}, unindexed {fraction:.3f}, pull {answer.worst:.1f}, "
        f"chi2 {answer.data.get('metrics', {}).get('reduced chi2', np.nan):.2g}: {said[:420]}",
        flush=True,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), lines=tuple(sys.argv[3:]))
