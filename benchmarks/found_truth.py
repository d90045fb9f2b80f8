"""Diffuse features that are found without help, against simulated volumes.

python -m benchmarks.found_truth [develop|held] [SERIES [SEED]] [KIND ...] [small] [free] [-v]
python -m benchmarks.found_truth picture FILE

`small`: at most 81³ voxels. `free`: only volumes with a place that symmetry leaves free. `develop`
has seeds from 400 on, with which the limits of the search were chosen, `held` seeds from 300 on;
SEED is another first one. Kinds: sheet, rod, point, two (a rod and a point), none. Each volume of
`tests.truth.diffuse_worlds` has 1, 10 or 100 counts per voxel, in turn. Features whose shape is not
certain count neither as found nor as false.
"""

import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from tests.truth import diffuse_worlds as worlds
from tests.truth.diffuse_average import averaged, off

from hklflow.series.feature_search import search

KINDS = {"sheet": ("sheet",), "rod": ("rod",), "point": ("point",), "two": ("rod", "point"),
         "none": ()}  # fmt: skip
CLOSE = 0.04  # r.l.u., largest distance of a feature that is found from the true one


def draw(path: Path) -> None:
    """Draw the average of a world with rods and points, and what is found in it."""
    from hklflow import plots
    from hklflow.plots.features import zone_plane
    from hklflow.plots.series import panels_of

    average = averaged(worlds.world(14, KINDS["two"], 10))
    found = search(average)
    names = [(f"{x.shape} {n + 1}", x) for n, x in enumerate(found)]
    figure, places = panels_of(2, 2, 3.6)
    for axes, level in zip(places, (0.0, 0.5), strict=True):
        zone_plane(axes, average, names, level, "simulated")
    plots.save(figure, path)


def is_free(place: np.ndarray) -> bool:
    """Return True if a place of a world is none that symmetry fixes."""
    fixed = np.array([0.0, 1 / 3, 1 / 2])
    return bool(np.abs(place[:, None] - fixed).min(axis=1).max() > 1e-6)


def main() -> None:
    """Print the figures."""
    if "picture" in sys.argv:
        draw(Path(sys.argv[-1]))
        return
    held, verbose = "held" in sys.argv, "-v" in sys.argv
    numbers = [int(x) for x in sys.argv[1:] if x.isdigit()]
    n = numbers[0] if numbers else 12
    base = numbers[1] if len(numbers) > 1 else 300 if held else 400
    kinds = [x for x in sys.argv[1:] if x in KINDS] or list(KINDS)
    start = time.process_time()
    rows = defaultdict(lambda: defaultdict(int))
    pulls, fixed = [], []
    for kind in kinds:
        for i in range(n):
            counts = (1, 10, 100)[i % 3]
            world = worlds.world(
                base + i,
                KINDS[kind],
                counts,
                81 if "small" in sys.argv else 101,
            )
            if "free" in sys.argv and not any(is_free(x["u"]) for x in world.truth):
                continue
            every = search(averaged(world))
            found = [x for x in every if x.certain]
            left = list(found)
            texts = []
            for feature in world.truth:
                near = [(off(feature, x, world.group), x) for x in left]
                near = [(a, x) for a, x in near if a is not None and np.abs(a).max() < CLOSE]
                row = rows[kind, counts]
                row["features"] += 1
                alike = [x for x in found if x.shape == feature["shape"]]
                row["shape"] += bool(alike)
                if near:
                    away, one = min(near, key=lambda x: float(np.abs(x[0]).max()))
                    left = [x for x in left if x is not one]
                    row["found"] += 1
                    row["first"] += one is found[0]
                    sigma = np.abs(one.place_sigma)
                    if len(sigma) == len(away) and sigma.max() > 0:
                        pulls.append((np.abs(away).max() / sigma.max(), np.abs(away).max()))
                    else:
                        fixed.append(np.abs(away).max())
                texts.append(f"{'' if near else 'MISSED '}{feature['shape']} "
                             f"{feature['c'].astype(int).tolist()} {feature['u'].round(4)} "
                             f"x {feature['x']:.2f} height {feature['height']:.2f}")  # fmt: skip
            rows[kind, counts]["volumes"] += 1
            rows[kind, counts]["false"] += len(left)
            rows[kind, counts]["volumes with false ones"] += bool(left)
            if verbose:
                print(kind, base + i, counts, world.group, world.S.shape,
                      world.axes[0][-1], *texts)  # fmt: skip
                for one in every:
                    mark = "FALSE" if any(x is one for x in left) else "     "
                    mark = mark if one.certain else "uncertain"
                    print(f"   {mark} {one.shape} {one.point} {one.direction} place {one.place} "
                          f"± {one.place_sigma} w {one.width.round(3)} z {one.significance:.1f} c "
                          f"{one.contrast:.3f} images {one.images} zones {one.zones_seen}/"
                          f"{one.zones}")  # fmt: skip
    print("kind counts volumes features found(shape, direction, place) first false volumes-with")
    for (kind, counts), row in rows.items():
        print(kind, counts, row["volumes"], row["features"], row["found"], row["first"],
              row["false"], row["volumes with false ones"])  # fmt: skip
    size = np.array(pulls).reshape(-1, 2)
    if len(size):
        print(f"{len(size)} places that symmetry leaves free: |off|/σ median "
              f"{np.median(size[:, 0]):.2f}, within 1 σ {np.mean(size[:, 0] < 1):.0%}, 2 σ "
              f"{np.mean(size[:, 0] < 2):.0%}, 3 σ {np.mean(size[:, 0] < 3):.0%}; off by up to "
              f"{size[:, 1].max():.4f} r.l.u., median {np.median(size[:, 1]):.4f}")  # fmt: skip
    print(f"{len(fixed)} places fixed by symmetry, {sum(x < 1e-6 for x in fixed)} exact; "
          f"{time.process_time() - start:.0f} s of CPU")  # fmt: skip


if __name__ == "__main__":
    main()
