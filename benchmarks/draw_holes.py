"""Draw docs/images/holes.png: what the holes of reflections do to a 3D-ΔPDF.

    python -m benchmarks.draw_holes [OUT.png]

A simulated crystal with correlated displacements, whose S has its maxima at the reflections, is
punched, and filled by kriging alone and by the fill of the stage. There are 100 counts per voxel of
S = 1. σ at lattice vectors is what `pdf` states: with what the holes lost, if kriging is not kept.
"""
# ruff: noqa: I001

import argparse
from pathlib import Path
from typing import Any

# hklflow comes before scipy: it makes cctbx safe to import, see hklflow/base/native.py.
import hklflow  # noqa: F401
import matplotlib.figure
import numpy as np

from benchmarks.holes_truth import by_kriging, with_covariance
from tests.truth import hole_judge, hole_worlds

PICTURE = Path(__file__).parents[1] / "docs/images/holes.png"
COLOURS = {"kriging": "#d1495b", "hklflow": "#30638e"}


def main() -> None:
    """Make the world, fill it twice, draw a line of S and the errors of the ΔPDF."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", default=PICTURE)
    out = parser.parse_args().out
    world = hole_worlds.make_world("correlated displacements", "monoclinic", 81, 0.05, False)
    norm = 100.0
    values, sigma = world.measure(norm, 1)
    filled = {
        "kriging": (*by_kriging(values, sigma, world.punched, world), lambda _: 0.0),
        "hklflow": with_covariance(values, sigma, world.punched, world),
    }
    figure = matplotlib.figure.Figure(figsize=(10.5, 3.4), layout="constrained")
    left, *right = figure.subplots(1, 3, width_ratios=[1.2, 1, 1])
    _line(left, world, values, filled)
    at_lattice = hole_judge.lattice_vectors(world, 200)
    reach = np.linalg.norm(at_lattice @ world.lattice.direct.T, axis=1).max()
    elsewhere = hole_judge.other_vectors(world, reach, 200)
    for axes, vectors, title in zip(
        right, (at_lattice, elsewhere), ("at lattice vectors", "elsewhere"), strict=True
    ):
        judge = hole_judge.Judge(world, vectors)
        for name, (data, errors, added) in filled.items():
            away = judge.transform(data) - judge.truth
            pulls = away / np.sqrt(np.diag(judge.covariance(errors) + added(judge)))
            axes.plot(judge.lengths, pulls, ".", ms=4, color=COLOURS[name], label=name)
        axes.axhspan(-1, 1, color="0.85", zorder=0)
        axes.set(xlabel="|r| (Å)", ylabel="(found − true) / σ", title=f"ΔPDF {title}")
    low, high = (f(axes.get_ylim()[i] for axes in right) for i, f in ((0, min), (1, max)))
    for axes in right:
        axes.set_ylim(low, high)
    right[0].legend(title="filled by", loc="lower right")
    figure.savefig(out, dpi=100)


def _line(
    axes: Any, world: hole_worlds.World, values: np.ndarray, filled: dict[str, tuple]
) -> None:
    """Draw S along h through the reflections h 0 1."""
    grid = world.grid
    row = np.s_[np.argmin(abs(grid.axis(2) - 1)), np.argmin(abs(grid.axis(1)))]
    h = grid.axis(0)
    own = abs(h) <= 1.3
    hole = world.punched[row] == hole_worlds.PUNCHED
    for centre in (-1, 0, 1):
        inside = h[hole & (abs(h - centre) < 0.5)]
        if len(inside):
            axes.axvspan(inside[0] - 0.025, inside[-1] + 0.025, color="0.85", zorder=0)
    axes.plot(h[own], world.truth[row][own], color="k", lw=1, label="true")
    axes.plot(h[own], values[row][own], ".", color="0.5", ms=4, label="measured")
    for name, (data, *_) in filled.items():
        axes.plot(h[hole & own], data[row][hole & own], "x", ms=5, color=COLOURS[name], label=name)
    axes.set_ylim(top=1.5 * world.truth[row][own].max())
    axes.set(xlabel="h of h 0 1 (r.l.u.)", ylabel="S(Q)", title="holes (grey) and their fill")
    axes.legend(ncols=2, loc="upper left")


if __name__ == "__main__":
    main()
