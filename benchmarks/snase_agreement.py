"""Staphylococcal nuclease: hklflow's volume against a reduction of the same frames in plain numpy.

    python -m benchmarks.snase_agreement DATA FOLDER

FOLDER holds the products of `python -m benchmarks.real_snase DATA FOLDER`. One ingredient of the
plain reduction is changed at a time; each row gives the correlations of the voxels around integer
hkl: of S, of the deviations from the mean of each shell of |Q|, and of the ranks of the deviations.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from tests.truth import snase
from tests.truth import snase_numpy as plain

from hklflow import nexus, stage
from hklflow.stages import frame_scale, transform

ONE = np.ones(plain.N_FRAMES)
DEGREE = tuple((np.arange(4) + 0.5) / 4)


class Comparison:
    """The frames, their geometry, and hklflow's volumes of them."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder = data, folder
        self.frames = plain.read_frames(data)
        self.good = nexus.read_mask(folder / "mask.nxs") == 0
        self.geometry = plain.from_orientation(stage.read_json(folder / "orientation.json"))
        self.scale = plain.overlap_scale(
            self.frames, self.good, self.geometry, plain.Recipe(ONE, fraction=0.95)
        )

    def hklflow(self, samples: tuple[int, int, int] | None = None, **scale: object) -> plain.Floats:
        """Return the volume of the stages with other settings of scale and sub-samples."""
        inputs = {
            "scan": self.folder / "scan.nxs",
            "statistics": self.folder / "statistics.nxs",
            "reference_scan": self.folder / "scan.nxs",
            "reference": self.folder / "statistics.nxs",
        }
        path = self.folder / "agreement"
        path.mkdir(exist_ok=True)
        products = {
            "scale": path / "scale.nxs",
            "picture": path / "scale.png",
            "metrics": path / "scale.json",
        }
        snase.run(frame_scale, inputs, products, **scale)
        snase.run(
            transform,
            {
                "scan": self.folder / "scan.nxs",
                "mask": self.folder / "mask.nxs",
                "scale": path / "scale.nxs",
                "frame_mask": self.folder / "frame_mask.nxs",
                "orientation": self.folder / "orientation.json",
            },
            {kind: path / f"{kind}.nxs" for kind in ("transform", "masked_transform")},
            rotation=snase.NAME,
            samples=samples,
        )
        return snase.around_integers(nexus.read_volume(path / "transform.nxs"))

    def reduce(self, recipe: plain.Recipe, geometry: plain.Geometry | None = None) -> plain.Floats:
        """Return the volume of the plain reduction."""
        return plain.reduce(self.frames, self.good, geometry or self.geometry, recipe)

    def row(self, name: str, a: plain.Floats, b: plain.Floats) -> None:
        """Print one row of the table."""
        values = plain.correlations(a, b, self.geometry.ub)
        print(f"| {name} |", " | ".join(f"{value:.4f}" for value in values), "|", flush=True)


def scales(run: Comparison) -> None:
    """Print the scale of the frames by each method, relative to the overlap of the frames."""
    print("\n| scale of the frames |", " | ".join(f"{z + 1}" for z in range(len(ONE))), "|")
    print("| overlap |", " | ".join(f"{s:.3f}" for s in run.scale), "|")
    found = {
        "ring of 100 to 500 pixels": plain.ring_scale(run.frames, run.good),
        "hklflow, own values": None,
        "hklflow, smooth": None,
        "1": ONE,
    }
    for name, settings in (("own values", {"smooth": False}), ("smooth", {})):
        run.hklflow(samples=(1, 1, 1), **settings)
        found[f"hklflow, {name}"] = nexus.read_scale(run.folder / "agreement/scale.nxs").scale
    for name, scale in found.items():
        off = scale / scale.mean() / run.scale - 1
        print(f"| {name}, minus overlap |", " | ".join(f"{o:+.1%}" for o in off), "|")


def walk(run: Comparison) -> None:
    """Print the way from the plain reduction to hklflow's volume of scale 1, one step at a time."""
    print("\n| plain numpy against hklflow, scale 1 | S | deviations | ranks |")
    ours = run.hklflow(source="none")
    ring = plain.ring_scale(run.frames, run.good)
    recipe = plain.Recipe(ring, ratios=True)
    steps = (
        ("independent reduction", {}),
        ("scale 1 instead of the ring", {"scale": ONE}),
        ("Σn/ΣN instead of the mean of n/N", {"ratios": False}),
        ("polarisation 0.95 instead of 0.965", {"fraction": 0.95}),
        ("counts dealt over 1° instead of put at its middle", {"phases": DEGREE}),
    )
    for name, change in steps:
        recipe = replace(recipe, **change)
        run.row(name, run.reduce(recipe), ours)
    still = run.hklflow((1, 1, 1), source="none")
    run.row("both at the middle", run.reduce(replace(recipe, phases=(0.5,))), still)


def swaps(run: Comparison) -> None:
    """Print the effect of one ingredient on the plain reduction with the scale from overlap."""
    print("\n| one ingredient changed | S | deviations | ranks |")
    best = plain.Recipe(run.scale)
    reference = run.reduce(best)
    run.row("hklflow, own values, stills", reference, run.hklflow((1, 1, 1), smooth=False))
    run.row("hklflow, own values, over 1°", reference, run.hklflow(smooth=False))
    run.row("hklflow, smooth, stills", reference, run.hklflow((1, 1, 1)))
    changes = {
        "scale 1": {"scale": ONE},
        "scale from the ring": {"scale": plain.ring_scale(run.frames, run.good)},
        "mean of n/N": {"ratios": True},
        "counts over 1°": {"phases": DEGREE},
        "0.5° from the geometry's angle": {"phases": (0.0,)},
        "polarisation 0.95": {"fraction": 0.95},
        "polarised along y": {"fraction": 0.035},
        "no polarisation (0.5)": {"fraction": 0.5},
        "cos³ 2θ instead of cos³ α": {"solid_angle": "two theta"},
        "no solid angle": {"solid_angle": "none"},
        "voxels from h to h + 1": {"corner": 0.5},
        "without pixels within 0.25 of a reflection": {"punch": 0.25},
    }
    for name, change in changes.items():
        run.row(name, run.reduce(replace(best, **change)), reference)
    run.row(
        "geometry of DIALS",
        run.reduce(best, plain.from_dials(run.data, run.geometry.ub)),
        reference,
    )
    half = np.random.default_rng(24).binomial(run.frames.astype(int), 0.5).astype(float)
    halves = (
        plain.reduce(part, run.good, run.geometry, best) for part in (half, run.frames - half)
    )
    run.row("halves of the counts", *halves)


def evidence(run: Comparison) -> None:
    """Print the rocking curve and the harmonics around the beam."""
    edges = np.linspace(-0.9, 0.9, 19)
    curve = plain.rocking(run.frames, run.good, run.geometry, edges)
    print("\n| crossing minus the frame's middle, degrees | excess |")
    for middle, value in zip((edges[:-1] + edges[1:]) / 2, curve, strict=True):
        print(f"| {middle:+.2f} | {value:.2f} |")
    print("\n| 2θ | correction | cos φ | sin φ | cos 2φ | sin 2φ |")
    for degrees in ((15, 20), (25, 28), (30, 33), (34, 36)):
        for fraction, angle in (
            (0.965, "alpha"),
            (0.95, "alpha"),
            (0.5, "alpha"),
            (0.035, "alpha"),
            (0.965, "two theta"),
        ):
            recipe = plain.Recipe(run.scale, fraction=fraction, solid_angle=angle)
            terms = plain.harmonics(run.frames, run.good, run.geometry, recipe, degrees)
            print(f"| {degrees} | {fraction}, {angle} |", *(f"{t:+.3f} |" for t in terms))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    run = Comparison(given.data, given.folder)
    scales(run)
    walk(run)
    swaps(run)
    evidence(run)


if __name__ == "__main__":
    main()
