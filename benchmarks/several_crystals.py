"""Several crystals merged: hklflow, and DIALS (dials.cosym, dials.scale) on the same reflections.

    python -m benchmarks.several_crystals [SEEDS] [--kinds good,twin] [--dials]
                                        [--twinned 0.1 0.1] [--crystals 3]

Five simulated crystals (tests/truth/several_crystals.py), of which one is bad in all kinds but
`good`, each indexed in one of two ways by chance. SEEDS is a range such as 0:20 (the seeds with
which limits were chosen) or 1000:1020. Printed for each kind: bad crystals found, good ones lost,
settings that are consistent, worlds with the right space group by the absences, and pulls of the
merged intensities against the truth.

With --dials (needs DIALS on PATH) the same reflections go through two ways of DIALS:

* `as found`: dials.cosym chooses the indices, dials.scale filters by ΔCC1/2
  (filtering.method=deltacchalf, mode=dataset, its default limit of 4 standard deviations);
* `told`: dials.scale alone gets the crystals that hklflow merged, with the indices that hklflow
  chose.

Both use scale and decay of each crystal, and no absorption.
"""

# isort: off
from tests.truth.defaults import gather, merge, scaling_settings, shell_statistics
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from tests.truth.several_crystals import (
    BAD,
    GROUP,
    OTHER_WAY,
    PER_COUNT,
    Crystal,
    World,
    representative,
)

from benchmarks.merging_dials import Merged, as_refl, figures_of, read_merged
from hklflow.base.errors import HklflowError
from hklflow.bragg import absences, crystals, observations
from hklflow.bragg.combination import Combination, Member, Rules
from hklflow.bragg.common_setting import Lattice
from hklflow.dials.programs import Dials, find
from hklflow.formats.dials_expt import write_expt
from hklflow.formats.dials_refl import write_refl
from hklflow.geometry import lattice, symmetry
from hklflow.geometry.model import Model
from hklflow.stages.merge_crystals import Settings

Floats = NDArray[np.float64]
SPACE_GROUP = symmetry.space_group(GROUP)
FIGURES = ("R_meas", "CC1/2", "pull rms", "pull median", "error", "correlation")


@dataclass
class Outcome:
    """Names left out, True if all merged good crystals have one setting, figures.

    ``reported`` are the names that are merged with a warning; ``absences`` is True if the test of
    absences ranks the true space group first.
    """

    left_out: set[str]
    consistent: bool
    figures: dict[str, float]
    reported: frozenset[str] = frozenset()
    absences: bool | None = None


def truth_of(world: World, merged: Merged) -> dict[str, float]:
    """Pulls and correlation with the true intensities, after a common scale and B."""
    hkl = np.array(list(merged))
    value, sigma = np.array(list(merged.values())).T
    cell = np.array([12.8, 12.8, 6.8, 90.0, 90.0, 90.0])
    s2 = 0.25 / lattice.d_spacing(cell, hkl) ** 2
    found = []
    for way in (np.eye(3, dtype=int), OTHER_WAY):
        true = world.truth(representative(hkl @ way.T))

        def model(p: Floats, true: Floats = true) -> Floats:
            return p[0] * true * np.exp(-2 * p[1] * s2)

        def away(p: Floats, model: Any = model) -> Floats:
            return (value - model(p)) / sigma

        fit = least_squares(away, [value.sum() / true.sum(), 0.0], loss="soft_l1").x
        pull, expected = away(fit), model(fit)
        found.append(
            {
                "pull rms": float(np.sqrt(np.mean(pull**2))),
                "pull median": float(1.4826 * np.median(np.abs(pull))),
                "error": float(np.abs(value - expected).sum() / expected.sum()),
                "correlation": float(np.corrcoef(value, expected)[0, 1]),
            }
        )
    return min(found, key=lambda one: one["error"])


def combined(world: World) -> Combination:
    """Scans of a world, combined with the limits of the stage."""
    scans = []
    for one in world.crystals:
        observed, _ = gather([one.table], [one.rotation], SPACE_GROUP, "profile")
        span = observations.span(one.rotation)
        scans.append(Member(one.name, Lattice(one.cell, SPACE_GROUP), observed, ["r1"], [span]))
    limits = Settings()
    rules = Rules(True, [], limits.cell_tolerance, limits.least_gain, limits.significance)
    return crystals.combine(scans, None, scaling_settings(), rules)


def ours(world: World, found: Combination) -> Outcome:
    """Figures of hklflow."""
    table = found.scaled()
    merged = merge(table.select(~SPACE_GROUP.is_absent(table.hkl)), found.cell, SPACE_GROUP)
    overall = shell_statistics(merged, tuple(found.cell), SPACE_GROUP, 5, n_shells=5).overall
    factors = merged.factors
    values = zip(factors.mean.intensity, factors.mean.sigma, strict=True)
    rows = dict(zip(map(tuple, factors.hkl.tolist()), values, strict=True))
    figures = {name: overall[name] for name in ("R_meas", "CC1/2")}
    settings = {
        _moved(one.choice.indexing.matrix) ^ crystal.flipped
        for one, crystal in zip(found.scans, world.crystals, strict=True)
        if one.merged and one.choice is not None
    }
    left_out = {one.member.name for one in found.scans if not one.merged}
    reported = frozenset(text.split()[0] for text in found.warnings if "agrees less" in text)
    best = absences.examine(table, SPACE_GROUP).compatible[:1]
    return Outcome(
        left_out,
        len(settings) == 1,
        figures | truth_of(world, rows),
        reported,
        any(GROUP in candidate.symbols for candidate in best),
    )


def _moved(matrix: Floats) -> bool:
    """Return True if a rotation of hkl leaves the Laue group 4/m, because it reverses c."""
    return bool(matrix[2, 2] < 0)


def write(one: Crystal, folder: Path, matrix: Floats) -> list[str]:
    """Write a crystal as dials.integrate would; gives the names of its two files."""
    raw = str(folder / f"{one.name}_####.cbf")
    ub = one.ub @ np.linalg.inv(matrix)
    model = Model(one.rotation, ub, GROUP, raw=raw, name=one.name)
    (name,) = write_expt(folder / f"{one.name}.expt", [model])
    hkl = np.rint(one.table.hkl @ matrix.T).astype(np.int64)
    table = replace(one.table, hkl=hkl)
    write_refl(
        folder / f"{one.name}.refl",
        as_refl(table, one.rotation, GROUP, 0, name, PER_COUNT),
    )
    return [f"{one.name}.expt", f"{one.name}.refl"]


_SCALE = (
    *("model=physical", "physical.absorption_correction=False", "anomalous=False"),
    *("reflection_selection.method=use_all", "intensity_choice=profile", "full_matrix=False"),
    "merging.nbins=5",
)


def scaled_by_dials(
    dials: Dials, world: World, folder: Path, files: list[str], *more: str
) -> tuple[dict[str, float], str]:
    """Figures of dials.scale and dials.merge, and the log of dials.scale."""
    dials.run("dials.scale", [*files, *_SCALE, *more], folder, "scaled.expt", "scaled.refl")
    said = (folder / "dials.scale.out").read_text()
    told = figures_of(said)
    options = ("anomalous=False", "output.html=None", "assess_space_group=False", "truncate=False")
    dials.run("dials.merge", ["scaled.expt", "scaled.refl", *options], folder, "merged.mtz")
    figures = {name: told.get(name, np.nan) for name in ("R_meas", "CC1/2")}
    return figures | truth_of(world, read_merged(folder / "merged.mtz")), said


def told(dials: Dials, world: World, found: Combination, folder: Path) -> dict[str, float]:
    """Figures of dials.scale on what hklflow merged, with its indices."""
    files = []
    for one, crystal in zip(found.scans, world.crystals, strict=True):
        if one.merged and one.choice is not None:
            files += write(crystal, folder, one.choice.indexing.matrix)
    return scaled_by_dials(dials, world, folder, files)[0]


def as_found(dials: Dials, world: World, folder: Path) -> Outcome:
    """Outcome of dials.cosym and dials.scale with filtering."""
    files = [name for one in world.crystals for name in write(one, folder, np.eye(3))]
    names = {
        identifier: one.name
        for one in world.crystals
        for identifier in _axes(folder / f"{one.name}.expt")
    }
    dials.run(
        "dials.cosym",
        [*files, f"space_group={GROUP.replace(' ', '')}", "normalisation=quasi"],
        folder,
        "symmetrized.expt",
        "symmetrized.refl",
    )
    figures, _ = scaled_by_dials(
        dials,
        world,
        folder,
        ["symmetrized.expt", "symmetrized.refl"],
        "filtering.method=deltacchalf",
    )
    after = _axes(folder / "symmetrized.expt")
    kept = {names[one] for one in _axes(folder / "scaled.expt")}
    settings = set()
    for one in world.crystals:
        (name,) = [identifier for identifier, crystal in names.items() if crystal == one.name]
        if one.name in kept and one.name != world.bad:
            before = _axes(folder / f"{one.name}.expt")[name]
            settings.add(_moved(after[name] @ np.linalg.inv(before)) ^ one.flipped)
    return Outcome({one.name for one in world.crystals} - kept, len(settings) == 1, figures)


def _axes(path: Path) -> dict[str, Floats]:
    """Axes a, b, c (rows) of the crystal of each experiment."""
    content = json.loads(path.read_text())
    found = {}
    for one in content["experiment"]:
        crystal = content["crystal"][one["crystal"]]
        found[one["identifier"]] = np.array([crystal[f"real_space_{x}"] for x in "abc"])
    return found


def line(label: str, kind: str, outcomes: list[tuple[World, Outcome]]) -> str:
    """Rates and medians of one kind of worlds."""
    n = len(outcomes)
    bad = [(world, one) for world, one in outcomes if world.bad]
    hits = sum(world.bad in one.left_out for world, one in bad)
    lost = sum(len(one.left_out - {world.bad}) for world, one in outcomes)
    good = sum(len(world.crystals) - bool(world.bad) for world, _ in outcomes)
    settings = sum(one.consistent for _, one in outcomes)
    figures = " ".join(
        f"{name} {np.median([one.figures[name] for _, one in outcomes]):.4f}" for name in FIGURES
    )
    found = f"{hits}/{len(bad)}" if bad else "-"
    tested = [one.absences for _, one in outcomes if one.absences is not None]
    right = f"{sum(tested)}/{len(tested)}" if tested else "-"
    return (
        f"{label:9s} {kind:10s} bad found {found:6s} bad reported "
        f"{sum(world.bad in one.reported for world, one in bad)} good lost {lost}/{good} good "
        f"reported {sum(len(one.reported - {world.bad}) for world, one in outcomes)} one setting "
        f"{settings}/{n} absences {right} {figures}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("seeds", nargs="?", default="0:20")
    parser.add_argument("--kinds", default=",".join(("good", *BAD)))
    parser.add_argument("--twinned", nargs=2, type=float, default=[0.25, 0.5])
    parser.add_argument("--crystals", type=int, default=5)
    parser.add_argument("--dials", action="store_true")
    given = parser.parse_args()
    dials = find() if given.dials else None
    for kind in given.kinds.split(","):
        rows: dict[str, list[tuple[World, Outcome]]] = {}
        for seed in range(*map(int, given.seeds.split(":"))):
            world = World(seed, kind, given.crystals, twinned=tuple(given.twinned))
            found = combined(world)
            first = ours(world, found)
            rows.setdefault("hklflow", []).append((world, first))
            if dials is None:
                continue
            with tempfile.TemporaryDirectory() as name:
                figures = told(dials, world, found, Path(name))
            mine = replace(first, figures=figures, absences=None)
            rows.setdefault("told", []).append((world, mine))
            try:
                with tempfile.TemporaryDirectory() as name:
                    rows.setdefault("as found", []).append(
                        (world, as_found(dials, world, Path(name)))
                    )
            except HklflowError as error:
                print(f"DIALS fails at {kind} {seed}: {str(error)[-200:]}")
        for label, outcomes in rows.items():
            print(line(label, kind, outcomes), flush=True)


if __name__ == "__main__":
    main()
