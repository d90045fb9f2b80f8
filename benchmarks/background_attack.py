"""Is a background that is not what its run measured right within its error, or reported?

Worlds of tests/truth/QUANTITATIVE.md are spoilt: the run without the crystal has wrong headers,
another beam stop, spots of its own or the crystal in it, and the surroundings change during the
rotation. S is compared with the truth away from reflections: sums over 5 x 5 x 5 voxels, and
regions (a shell of |Q| in an octant of hkl). A world is silently wrong if a region with at least
1 % of the counts is wrong by more than 3 % of the crystal's counts and by five standard
deviations, or if the pulls of blocks are wider than 1.3, and nothing is reported.

    python -m benchmarks.background_attack [case ...] [--seed 201]
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tests.truth.backgrounds import Measured, _blocks, _run, reduced, texts
from tests.truth.quantitative import World
from tests.truth.quantitative_background import Air, EmptyRun, ring_profile
from tests.truth.quantitative_catalogue import world
from tests.truth.quantitative_write import write

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.stages import import_scan

Parts = dict[str, np.ndarray]


def _same(w: "Spoilt", parts: Parts, r: int, z: int) -> Parts:
    return parts


def _run_as_it_is(w: "Spoilt", expected: np.ndarray) -> np.ndarray:
    return expected


@dataclass
class Spoilt(World):
    """A world whose surroundings, or whose run without the crystal, are changed."""

    change: Callable[["Spoilt", Parts, int, int], Parts] = field(default=_same)
    change_run: Callable[["Spoilt", np.ndarray], np.ndarray] = field(default=_run_as_it_is)
    shadow: Callable[["Spoilt", int, int], np.ndarray] | None = None

    def expected(self, r: int, z: int) -> np.ndarray:
        """Return what the detector sees; the truth (`parts`) is without the shadow."""
        counts = super().expected(r, z)
        return counts if self.shadow is None else np.where(self.shadow(self, r, z), 0, counts)

    def parts(self, r: int, z: int) -> Parts:
        return self.change(self, super().parts(r, z), r, z)

    def empty_expected(self) -> np.ndarray:
        return self.change_run(self, super().empty_expected())


@dataclass(frozen=True)
class Case:
    """What is spoilt: fields of the plan, counts, headers of the run, and the configuration."""

    plan: dict[str, Any] = field(default_factory=dict)
    empty: EmptyRun = EmptyRun(40, 1.0)  # noqa: RUF009
    air: float = 0.25
    change: Callable[[Spoilt, Parts, int, int], Parts] = _same
    change_run: Callable[[Spoilt, np.ndarray], np.ndarray] = _run_as_it_is
    shadow: Callable[[Spoilt, int, int], np.ndarray] | None = None
    headers: Callable[[h5py.File], None] = lambda file: None
    config: dict[str, Any] = field(default_factory=dict)
    monitor: str = ""


def ring(w: World, q: float | None = None) -> np.ndarray:
    """Return powder rings of Al, or one at |Q|; the largest is 1 where the norm is 1."""
    width = w.optics.ring_width

    def one(at: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
        return np.exp(-(((at - q) / width) ** 2) / 2)

    profile = ring_profile("Al", 0.4, 0.3, width) if q is None else one
    return np.where(w.blind, 0, w.optics.image(profile, np.zeros(1)))


def level(w: World) -> float:
    """Return the mean counts of diffuse scattering in a pixel for beam 1."""
    return w.scale * w._mean(lambda r, z: w.transmission(r, z) * w.structure(r, z) * w.norm)


def furnace(course: Callable[[float], float], size: float = 1.0, q: float | None = None) -> Any:
    """Return a change: rings that follow a course over the rotation (0 to 1)."""

    def change(w: Spoilt, parts: Parts, r: int, z: int) -> Parts:
        image = w._kept.setdefault("rings", size * level(w) * ring(w, q))
        return parts | {"rings": course((z + 0.5) / w.scans[r].n_frames) * image}

    return change


def with_rings(w: Spoilt, expected: np.ndarray) -> np.ndarray:
    assert w.surroundings.empty
    e = w.surroundings.empty
    return expected + e.beam * e.exposure * e.attenuator * level(w) * ring(w)


def stop(w: World, rows: float, columns: float, radius: float) -> np.ndarray:
    """Return True in the shadow (degrees) of a beam stop that is shifted by pixels."""
    inst = w.optics.instrument
    slow, fast, _ = inst.pixel(np.zeros(3), np.array([[0.0, 0, 1]]))
    i, j = (x + 0.5 for x in np.indices(w.shape))
    distance = abs(inst.origin @ w.optics.normal) / inst.pixel_size
    away = np.hypot(i - slow[0] - rows, j - fast[0] - columns)
    return np.asarray(away < distance * np.tan(np.radians(radius)))


def wobble(w: Spoilt, parts: Parts, r: int, z: int) -> Parts:
    """Let air next to a beam stop that moves by 1.5 pixels be stronger by a fifth."""
    turn = 2 * np.pi * z / w.scans[r].n_frames
    near = stop(w, 1.5 * np.cos(turn), 1.5 * np.sin(turn), 4.5)
    return parts | {"air": parts["air"] * np.where(near, 1.2, 1.0)}


def wobbling(w: Spoilt, r: int, z: int) -> np.ndarray:
    """Return the shadow of a beam stop that moves by 1.5 pixels."""
    turn = 2 * np.pi * z / w.scans[r].n_frames
    return stop(w, 1.5 * np.cos(turn), 1.5 * np.sin(turn), 2.2)


def other_stop(w: Spoilt, expected: np.ndarray) -> np.ndarray:
    return np.where(stop(w, 4, 5, 4.0), 0, expected)


def moved_detector(w: Spoilt, expected: np.ndarray) -> np.ndarray:
    return np.roll(np.where(w.blind, np.median(expected[~w.blind]), expected), (5, 4), (0, 1))


def spots(w: Spoilt, expected: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(w.seed)
    image = expected.copy()
    middle = np.median(expected[~w.blind])
    for _ in range(30):
        i, j = (int(rng.integers(2, n - 2)) for n in w.shape)
        image[i : i + 2, j : j + 2] += middle * 10 ** rng.uniform(0.5, 2.5)
    return np.where(w.blind, 0, image)


def crystal(w: Spoilt, expected: np.ndarray) -> np.ndarray:
    """Return the run with the crystal in the beam, at the first angle."""
    e = w.surroundings.empty
    assert e
    return e.exposure * e.attenuator * w.expected(0, 0) / w.attenuator[0][0]


def rewrite(**values: float) -> Callable[[h5py.File], None]:
    """Return what multiplies entries of a run's header."""
    paths = {
        "exposure": ["instrument/detector/count_time", "instrument/detector/frame_time"],
        "monitor": ["monitor/data"],
        "attenuator": ["instrument/attenuator/attenuator_transmission"],
        "distance": ["instrument/detector/distance",
                     "instrument/detector/module/module_offset"],
        "wavelength": ["instrument/beam/incident_wavelength"],
    }  # fmt: skip

    def change(file: h5py.File) -> None:
        for name, factor in values.items():
            for path in paths[name]:
                data = file["entry"][path]
                data[...] = np.asarray(data[()], float) * factor

    return change


MANY = EmptyRun(40, 1.0)
COARSE: dict[str, Any] = {"shape": (60, 64), "span": 60.0}
FINE: dict[str, Any] = {"shape": (120, 128), "span": 40.0}
LONG: dict[str, Any] = {"shape": (120, 128), "span": 90.0}
CASES: dict[str, Case] = {
    "as it is": Case(),
    "one frame": Case(empty=EmptyRun(1, 1.0)),
    "exposure 0.3": Case(empty=EmptyRun(40, 0.3)),
    "exposure 0.3, recorded as 1": Case(
        empty=EmptyRun(40, 0.3), headers=rewrite(exposure=1 / 0.3)
    ),
    "exposure 0.3, recorded as 1, monitor too": Case(
        empty=EmptyRun(40, 0.3), headers=rewrite(exposure=1 / 0.3, monitor=1 / 0.3)
    ),
    "monitor of the run 3 times too small": Case(headers=rewrite(monitor=1 / 3)),
    "attenuator 0.2": Case(empty=EmptyRun(40, 1.0, 1.0, 0.2)),
    "attenuator 0.2, recorded as 1": Case(
        empty=EmptyRun(40, 1.0, 1.0, 0.2), headers=rewrite(attenuator=5.0)
    ),
    "attenuator 1, recorded as 0.2": Case(headers=rewrite(attenuator=0.2)),
    "detector moved, recorded": Case(change_run=moved_detector, headers=rewrite(distance=1.1)),
    "detector moved, not recorded": Case(change_run=moved_detector),
    "beam stop elsewhere in the run": Case(change_run=other_stop),
    "wavelength changed, recorded": Case(headers=rewrite(wavelength=1.05)),
    "air 5 % stronger in the run": Case(change_run=lambda w, e: 1.05 * e),
    "air 5 % stronger in the run, strong air": Case(air=2.0, change_run=lambda w, e: 1.05 * e),
    "spots in the run": Case(change_run=spots),
    "crystal in the run": Case(change_run=crystal),
    "no monitor": Case(empty=EmptyRun(40, 1.0, 0.7), monitor="none"),
    "beam stop wobbles": Case(change=wobble, shadow=wobbling),
    "rings in the run and the frames": Case(
        plan=FINE, change=furnace(lambda t: 1.0), change_run=with_rings
    ),
    "rings in the run, in half of the frames": Case(
        plan=FINE, change=furnace(lambda t: float(t > 0.5)), change_run=with_rings
    ),
    "rings in the run, vary in the frames": Case(
        plan=FINE, change=furnace(lambda t: 1 + 0.5 * np.sin(7 * t)), change_run=with_rings
    ),
    "rings in the frames only": Case(plan=FINE, change=furnace(lambda t: 1.0, 0.3)),
    "rings in the frames only, 90 degrees": Case(
        plan=LONG, change=furnace(lambda t: 1.0, 0.3)
    ),
    "rings in the frames only, in half of 90 degrees": Case(
        plan=LONG, change=furnace(lambda t: float(t > 0.5), 0.3)
    ),
    "rings in the run only": Case(plan=FINE, change_run=with_rings),
}  # fmt: skip


def spoilt(case: Case, seed: int) -> Spoilt:
    """Return a plate in air, one rotation, with a case."""
    plan = {"settings": (0.0,), "start": (0.0,)} | COARSE | case.plan
    if case.monitor:
        plan["monitor"] = case.monitor
    base = world("plate", seed, **plan)
    around = replace(base.surroundings, air=Air(case.air), empty=case.empty)
    base.surroundings = around
    values = {f.name: getattr(base, f.name) for f in fields(World) if f.name != "_kept"}
    return Spoilt(**values, change=case.change, change_run=case.change_run, shadow=case.shadow)


def reports(folder: Path) -> list[str]:
    """Return the warnings of the stages that have run."""
    found = []
    for path in sorted(folder.glob("*.json")):
        found += [f"{path.stem}: {text}" for text in stage.read_json(path).get("warnings", [])]
    return found


def judged(m: Measured) -> dict[str, float]:
    """Return the largest error of a region, its deviations, and the width of blocks' pulls."""
    off, total = m.net - m.crystal, m.crystal + m.truth
    use = (m.norm > 0) & (m.bragg < 0.02 * total) & (total > 5)
    noise = m.variance - m.net - m.expected
    edges = np.quantile(m.q[use], np.linspace(0, 1, 17))
    shell = np.clip(np.digitize(m.q, edges) - 1, 0, 15)
    sides = [np.arange(n) >= n // 2 for n in off.shape]
    octant = 4 * sides[0][:, None, None] + 2 * sides[1][:, None] + sides[2]
    region = (shell + 16 * octant)[use]
    n = 128
    o, t, c, v = (np.bincount(region, x[use], n) for x in (off, total, m.crystal, noise))
    large = c > 0.003 * c.sum()
    relative = np.abs(o / np.maximum(c, 1e-9))
    deviations = np.abs(o) / np.sqrt(np.maximum(t + 20 * np.maximum(v, 0), 1e-9))
    wrong = large & (relative > 0.03) & (deviations > 5)
    sums = [_blocks(np.where(use, x, 0)) for x in (off, total, noise, use)]
    full = sums[3] > 60
    # The noise of neighbouring voxels is common, 8 times as in `backgrounds.figures`.
    pull = (sums[0] / np.sqrt(np.maximum(sums[1] + 8 * sums[2], 1e-9)))[full]
    return {
        "bias": float(off[use].sum() / m.crystal[use].sum()),
        "worst region": float(relative[wrong].max()) if wrong.any() else 0.0,
        "wrong regions": int(wrong.sum()),
        "pull width": float(pull.std()),
        "pull mean": float(pull.mean()),
    }


def attack(name: str, seed: int) -> None:
    """Print what is wrong in a world, and what is reported."""
    case = CASES[name]
    w = spoilt(case, seed)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write(w, folder)
        texts(w, folder)
        run = folder / "raw" / "plate_empty.nxs"
        with h5py.File(run, "r+") as file:
            case.headers(file)
        of = w._images
        before, behind = (of[f"air {x}"][~w.blind].sum() for x in ("before", "behind"))
        air = {"raw": str(run), "seen_through": "part", "share": float(behind / (before + behind)),
               "transmission": folder / "through{r}.txt"} | case.config  # fmt: skip
        refused = ""
        m = None
        try:
            if case.monitor == "none":
                _run(import_scan, {"raw": [folder / "raw" / "plate_300K_r1.nxs"]},
                     {"scan": folder / "scan0.nxs"}, monitor="none")  # fmt: skip
            m = reduced(w, folder, {"air": air})
        except HklflowError as error:
            refused = str(error)
        texts_found = reports(folder)
        found = judged(m) if m is not None else {}
    bad = bool(found) and (found["wrong regions"] > 0 or found["pull width"] > 1.3)
    verdict = "refused" if refused else "reported" if texts_found else "SILENT" if bad else "right"
    print(f"RESULT {name}: {'wrong' if bad else 'right'}, {verdict}")
    print("    ", {k: round(v, 4) for k, v in found.items()})
    for text in [refused] * bool(refused) + texts_found:
        print("     says:", text[:400], flush=True)


def main() -> None:
    """Attack each case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="case")
    parser.add_argument("--seed", type=int, default=201)
    asked = parser.parse_args()
    for name in asked.names or CASES:
        attack(name, asked.seed)


if __name__ == "__main__":
    main()
