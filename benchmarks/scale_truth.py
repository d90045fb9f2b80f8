"""Is the scale of the frames right? Ten worlds with transmissions that were traced by rays.

Worlds of tests/truth/QUANTITATIVE.md, from raw files through the stages import_scan, find_peaks,
mask_3d, background (where an empty run exists), frame_scale, refine_scale and transform. Mask and
orientation are the true ones. The factor of `frame_scale` alone (before) and with `refine_scale`
(after) are compared with the truth; what is a function of Q with the Laue symmetry, which no
repeated measurement shows, is taken off both (`gauge_free`) and stated apart.

Blocks are cubes of half a reciprocal cell without the surroundings of reflections: counts less
background, less the expected counts of the crystal times the visible error of the factor, over
the counting error. Width 1: no systematic error. Where no empty run exists, the true background is
subtracted from blocks, so that they judge the scale alone; refine_scale does not know it.

    python -m benchmarks.scale_truth plate 11 --folder WORK
    python -m benchmarks.scale_truth all 11 --folder WORK          # one world after the other
    python -m benchmarks.scale_truth needle 11 --folder WORK --counts 10 --shape 120 128 --span 90
    python -m benchmarks.scale_truth all 11 --folder WORK --table  # rows that exist, no work
    python -m benchmarks.scale_truth plate 11 --folder WORK --larger 0.05  # with a shape
    python -m benchmarks.scale_truth plate 11 --folder WORK --outgoing  # with `outgoing_step`

With --larger the configuration has the shape of the crystal, whose lengths are too large by this
share (and no walls of a capillary); "before" is then `frame_scale` with this shape.

A folder keeps what is made: frames, products, rows. --again repeats refine_scale and what follows.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.interpolate import RegularGridInterpolator
from tests.truth.orientations import write_orientation
from tests.truth.quantitative import World
from tests.truth.quantitative_bounds import information, scale_bound, splines
from tests.truth.quantitative_catalogue import PLANS, world
from tests.truth.quantitative_gauge import Visible, at_blocks, gauge_free
from tests.truth.quantitative_scans import shape_of
from tests.truth.quantitative_write import write

from hklflow import nexus, stage
from hklflow.geometry.grid import Grid
from hklflow.stages import (
    absorption,
    background,
    find_peaks,
    frame_scale,
    import_scan,
    mask_3d,
    refine_scale,
    transform,
)
from hklflow.transform.surroundings import norms as factors_of

FIELDS = (60, 64)  # directions at which factors are compared
BLOCK = 0.5  # h, k, l
PUNCH = 0.2
NOISE = {"good": 0.0, "bad": 0.01}  # of monitors, between frames
OUTGOING = {"outgoing_step": 6.0, "direction_step": 20.0, "direction_intervals": 3}
ANOMALOUS = ("polar hexagonal", "undetermined")  # their Friedel mates differ


@dataclass(frozen=True)
class Case:
    """A world in a folder."""

    world: World
    folder: Path
    larger: float | None = None  # share by which the shape in the configuration is too large
    outgoing: bool = False  # with a factor by direction in the frame of the crystal

    @property
    def absorbed(self) -> Path | None:
        """Transmission by the shape; None: the shape is not given."""
        return None if self.larger is None else self.folder / "absorption.nxs"

    @property
    def names(self) -> list[str]:
        """Names of the rotations."""
        return [f"r{i + 1}" for i in range(len(self.world.scans))]

    def of(self, name: str, file: str) -> Path:
        """Return a file of a rotation."""
        return self.folder / name / file

    def each(self, file: str) -> list[Path]:
        """Return a file of all rotations."""
        return [self.of(name, file) for name in self.names]


def run(module: Any, inputs: dict[str, Any], outputs: dict[str, Path], **params: Any) -> float:
    """Run a stage unless its products exist; return the seconds that it took."""
    if all(path.exists() for path in outputs.values()):
        return 0.0
    clock = time.perf_counter()
    stage.run(
        module.main,
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
        threads=1,
    )
    return time.perf_counter() - clock


def prepared(case: Case) -> None:
    """Write the frames and run the stages before the refinement of the scale."""
    w = case.world
    sample = w.name.replace(" ", "-")
    if not (case.folder / "written").exists():
        write(w, case.folder)
        (case.folder / "written").touch()
    rotations = {}
    for name in case.names:
        own = case.folder / name
        own.mkdir(exist_ok=True)
        raw = case.folder / "raw" / f"{sample}_300K_{name}.nxs"
        keys = {} if w.monitor else {"monitor": "none"}
        run(import_scan, {"raw": [raw]}, {"scan": own / "scan.nxs"}, **keys)
        rotations[name] = nexus.read_scan(own / "scan.nxs").rotation
    symbol = w.crystal.space_group.partition(":")[0]
    grid = Grid.covering(w.crystal.cell, float(w.q[~w.blind].max()), 0.1)
    if not (case.folder / "orientation.json").exists():
        write_orientation(case.folder / "orientation.json", rotations, w.UB, symbol, grid)
    absorbed = by_shape(case)
    for name in case.names:
        own = case.folder / name
        if not (own / "mask.nxs").exists():
            nexus.write_mask(own / "mask.nxs", w.blind.astype(np.uint32))
        basic = {"scan": own / "scan.nxs", "mask": own / "mask.nxs"}
        parts = ("peaks", "statistics"), ("picture", "statistics_picture")
        made = {
            n: own / f"{n}.{e}" for ns, e in zip(parts, ("nxs", "png"), strict=True) for n in ns
        }
        made |= {n: own / f"{n}.json" for n in ("metrics", "statistics_metrics")}
        run(find_peaks, basic, made)
        run(
            mask_3d,
            basic,
            {"frame_mask": own / "frame_mask.nxs", "picture": own / "frame_mask.png"},
        )
        if w.surroundings.empty:
            run(
                background,
                basic | {"statistics": own / "statistics.nxs", "absorption": absorbed},
                {
                    "background": own / "background.nxs",
                    "picture": own / "b.png",
                    "metrics": own / "background.json",
                },
                runs={"empty": empty_run(case, name)},
            )
        run(
            frame_scale,
            {
                "scan": own / "scan.nxs",
                "statistics": own / "statistics.nxs",
                "reference_scan": case.of("r1", "scan.nxs"),
                "reference": case.of("r1", "statistics.nxs"),
                "absorption": absorbed,
                "background": own / "background.nxs" if w.surroundings.empty else None,
                "reference_background": (
                    case.of("r1", "background.nxs") if w.surroundings.empty else None
                ),
            },
            {"scale": own / "scale.nxs", "picture": own / "s.png", "metrics": own / "scale.json"},
        )


def by_shape(case: Case) -> Path | None:
    """Return the transmission by the shape, whose lengths are too large; None: not known."""
    if case.larger is None:
        return None
    w, made = case.world, case.folder / "absorption.nxs"
    fwhm = w.absorber.beam.fwhm
    beam = {"profile": "gaussian", "horizontal": fwhm[0], "vertical": fwhm[1]} if fwhm else None
    run(
        absorption,
        {"orientation": case.folder / "orientation.json", "scans": case.each("scan.nxs")},
        {
            "absorption": made,
            "picture": case.folder / "a.png",
            "metrics": case.folder / "absorption.json",
        },
        shape=shape_of(w, case.larger),
        mu=w.absorber.mu,
        beam=beam,
    )
    return made


def empty_run(case: Case, name: str) -> dict[str, Any]:
    """Return the true share behind the crystal, with a file of its transmission by frame."""
    w = case.world
    r, of = case.names.index(name), w._images
    sees = ~w.blind
    levels = {n: float(image[sees].mean()) for n, image in of.items() if n != "flat"}
    behind = sum(v for n, v in levels.items() if n.endswith("behind") or n == "capillary")
    through = w.nodes(r, "through")
    if w.surroundings.capillary:
        alone = w.absorber.container(np.eye(3), w.node_rays, sample=False)
        through = (w.nodes(r, "container") / alone).mean(axis=(1, 2))
    np.savetxt(case.of(name, "through.txt"), through)
    return {
        "raw": str(case.folder / "raw" / f"{w.name.replace(' ', '-')}_empty.nxs"),
        "seen_through": "part",
        "share": round(behind / sum(levels.values()), 3),
        "transmission": case.of(name, "through.txt"),
    }


def refined(case: Case, **params: Any) -> tuple[dict[str, Any], float]:
    """Run refine_scale; return its figures, and its time."""
    made = {"refined": "refined_scale.nxs", "picture": "r.png", "metrics": "refined_scale.json"}
    backgrounds = [path for path in case.each("background.nxs") if path.exists()]
    seconds = run(
        refine_scale,
        {
            "scans": case.each("scan.nxs"),
            "masks": case.each("mask.nxs"),
            "scales": case.each("scale.nxs"),
            "frame_masks": case.each("frame_mask.nxs"),
            "orientation": case.folder / "orientation.json",
            "absorption": case.absorbed,
            "backgrounds": backgrounds,
        },
        {field: case.folder / file for field, file in made.items()},
        friedel=case.world.name not in ANOMALOUS,
        **(OUTGOING if case.outgoing else {}),
        **params,
    )
    return stage.read_json(case.folder / "refined_scale.json"), seconds


def transformed(case: Case, refine: bool) -> float:
    """Transform all rotations, with the refined scale or without; return the seconds."""
    seconds = 0.0
    for name in case.names:
        kind = "after" if refine else "before"
        outputs = {
            "transform": case.of(name, f"{kind}.nxs"),
            "masked_transform": case.of(name, f"{kind}_masked.nxs"),
        }
        empty = case.of(name, "background.nxs")
        seconds += run(
            transform,
            {
                "scan": case.of(name, "scan.nxs"),
                "mask": case.of(name, "mask.nxs"),
                "scale": case.of(name, "scale.nxs"),
                "refined": case.folder / "refined_scale.nxs" if refine else None,
                "absorption": case.absorbed,
                "frame_mask": case.of(name, "frame_mask.nxs"),
                "orientation": case.folder / "orientation.json",
                "background": empty if empty.exists() else None,
            },
            outputs,
            rotation=name,
        )
        for path in outputs.values():
            path.write_bytes(b"")  # only the time is of interest
    return seconds


def errors_of_factor(case: Case) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return ln(factor / true) of each rotation (frames, slow, fast) before and after."""
    w, before, after = case.world, [], []
    every = w.shape[0] // FIELDS[0]
    slow, fast = (at_blocks(np.indices(w.shape)[i] + 0.5, every) for i in (0, 1))
    for r, name in enumerate(case.names):
        scale = nexus.read_scale(case.of(name, "scale.nxs"))
        own = nexus.read_refined(case.folder / "refined_scale.nxs", name)
        frames = range(w.scans[r].n_frames)
        true = np.log(np.stack([at_blocks(w.factor(r, z), every) for z in frames]))
        log = np.log(scale.monitor * scale.attenuation * scale.scale)[:, None, None] - true
        if case.absorbed:
            mean, shape = nexus.read_absorption(case.absorbed, name)
            log += np.log(mean)[:, None, None]
            log += np.stack([shape.at(z, slow[:, 0], fast[0]) for z in frames])
        before.append(log)
        if own is None:
            after.append(log)
            continue
        nodes = own.direction.slow, own.direction.fast
        of = np.stack([RegularGridInterpolator(nodes, d)((slow, fast)) for d in own.direction.log])
        of = of[np.arange(len(true)) // own.direction.every]
        after.append(log + np.log(own.curve)[:, None, None] + of)
    centred = []
    for fields in (before, after):
        mean = np.mean(np.concatenate([f.ravel() for f in fields]))
        centred.append([f - mean for f in fields])
    return centred[0], centred[1]


def course(case: Case, seen: Visible) -> list[np.ndarray]:
    """Return the visible error of ln s(φ) of each rotation (frames,): the mean over directions."""
    sees = at_blocks(~case.world.blind, case.world.shape[0] // FIELDS[0])
    return [f[:, sees].mean(axis=1) for f in seen.fields]


def pulls_of_frames(case: Case, off: list[np.ndarray]) -> float:
    """Return the rms of the errors of s(φ) over those of the file; nan: nothing was found."""
    pulls = []
    for name, error in zip(case.names, off, strict=True):
        own = nexus.read_refined(case.folder / "refined_scale.nxs", name)
        if own is None:
            return np.nan
        pulls.append(error / (own.errors / own.curve))
    return float(np.sqrt(np.mean(np.concatenate(pulls) ** 2)))


def block_widths(case: Case, kinds: list[Visible]) -> list[float]:
    """Return the width of the pulls of blocks for each kind of visible errors."""
    w = case.world
    every = w.shape[0] // FIELDS[0]
    reach = int(np.ceil(np.abs(w.hkl(0, 0.0)).max() * 2 / BLOCK)) + 2
    n = 2 * reach
    sums = np.zeros((2 + len(kinds), n**3))  # counts, their variance, and off
    sample = w.name.replace(" ", "-")
    known = ("diffuse", "bragg", "compton", "fluorescence")
    for r, name in enumerate(case.names):
        empty = case.of(name, "background.nxs")
        measured: Any = None
        if empty.exists():
            scale = nexus.read_scale(case.of(name, "scale.nxs"))
            parts = nexus.read_background(empty)
            measured = factors_of(parts, scale.monitor * scale.attenuation)
        with h5py.File(case.folder / "raw" / f"{sample}_300K_{name}.nxs") as file:
            data = file["entry/data/data"]
            for z in range(w.scans[r].n_frames):
                of = w.parts(r, z)
                crystal = sum(of[k] for k in known if k in of)
                if measured is None:
                    rest = sum(of.values()) - crystal
                else:
                    rest = sum(pixel * frame[z] for pixel, frame in measured)
                hkl = w.hkl(r, z + 0.5)
                use = ~w.blind & (np.abs(hkl - np.rint(hkl)).max(axis=-1) >= PUNCH)
                use &= of["bragg"] < 0.01 * (crystal + rest)
                at = (np.floor(hkl[use] / BLOCK) + reach).astype(int) @ [n * n, n, 1]
                counts = data[z][use].astype(float)
                rows = [counts, crystal[use] + np.broadcast_to(rest, w.shape)[use]]
                for seen in kinds:
                    field = np.kron(seen.fields[r][z], np.ones((every, every)))
                    off = counts - np.broadcast_to(rest, w.shape)[use]
                    rows.append(off - (crystal * np.exp(field))[use])
                sums += [np.bincount(at, row, n**3) for row in rows]
    good = sums[1] > 0.25 * np.median(sums[1][sums[1] > 0])
    return [float(np.std(off[good] / np.sqrt(sums[1][good]))) for off in sums[2:]]


def bound_of(w: World, frame_step: float) -> tuple[float, float]:
    """Return the median Cramér-Rao bound of s(φ) for curves as free as the fit's.

    The second bound is for a curve and a factor of each frame of the size that the world has: noise
    σ of the monitor, or of the source if there is none. A frame alone, with the curve known, has
    the information J = I / Σ b² by that of a spline b, I. The curve's variance then grows by 1 + J
    σ², and a frame's factor has the variance 1 / (J + 1/σ²).
    """
    n_frames = w.scans[0].n_frames
    k = round(abs(w.scans[0].step) * n_frames / frame_step) + 3
    curve = float(np.median(np.concatenate(scale_bound(w, k, every=3))))
    sizes = np.tile(np.sum(splines(n_frames, k) ** 2, axis=0), len(w.scans))
    alone = float(np.median(np.diag(information(w, k, every=3)) / sizes))
    noise = 0.002 if w.monitor is None else NOISE[PLANS[w.name].monitor]
    of_frames = 0.0 if noise == 0 else 1 / (alone + noise**-2)
    return curve, float(np.sqrt(curve**2 * (1 + alone * noise**2) + of_frames))


def judged(case: Case, **params: Any) -> dict[str, Any]:
    """Return the row of a world."""
    w = case.world
    prepared(case)
    plain = transformed(case, refine=False)
    figures, seconds = refined(case, **params)
    directed = transformed(case, refine=True)
    every = w.shape[0] // FIELDS[0]
    kinds = [gauge_free(w, fields, every=every) for fields in errors_of_factor(case)]
    off = [course(case, seen) for seen in kinds]
    flat = [np.concatenate(part) for part in off]
    widths = block_widths(case, kinds)
    return {
        "world": w.name,
        "seed": w.seed,
        "pixels": f"{w.shape[0]}x{w.shape[1]}x{sum(s.n_frames for s in w.scans)}",
        "counts": w.counts_per_voxel,
        "determined": figures["determined"],
        "repeated": kinds[1].repeated,
        "chi2": [figures.get(f"reduced chi2 {k}", np.nan) for k in ("before", "after")],
        "frames_rms": [float(np.sqrt(np.mean(f**2))) for f in flat],
        "frames_largest": [float(np.abs(f).max()) for f in flat],
        "visible": [seen.rms for seen in kinds],
        "gauge": [seen.gauge_rms for seen in kinds],
        "blocks": widths,
        "pull": pulls_of_frames(case, off[1]),
        "bound": bound_of(w, refine_scale.Params(**params).frame_step),
        "seconds": [plain, seconds, directed],
        "share": figures.get("share of the counts that does not follow the scale", np.nan),
        "said": figures["warnings"],
        "said by frame_scale": [
            text for p in case.each("scale.json") for text in stage.read_json(p)["warnings"]
        ],
    }


HEAD = (
    "| world, seed | frames: rms / largest, % | frames rms after, bound, % | pull | visible, % "
    "| gauge, % | blocks | χ² | time |\n|---|---|---|---|---|---|---|---|---|"
)


def line(row: dict[str, Any]) -> str:
    """Return a row of the table: before → after."""
    p = {k: [100 * x for x in row[k]] for k in
         ("frames_rms", "frames_largest", "visible", "gauge")}  # fmt: skip
    a, b = p["frames_rms"], p["frames_largest"]
    bounds = " / ".join(f"{100 * bound:.2f}" for bound in np.atleast_1d(row["bound"]))
    return (
        f"| {row['world']}, {row['seed']} | {a[0]:.2f} / {b[0]:.2f} → {a[1]:.2f} / {b[1]:.2f} "
        f"| {a[1]:.2f}, {bounds} | {row['pull']:.2f} "
        f"| {p['visible'][0]:.2f} → {p['visible'][1]:.2f} "
        f"| {p['gauge'][0]:.1f} → {p['gauge'][1]:.1f} "
        f"| {row['blocks'][0]:.2f} → {row['blocks'][1]:.2f} "
        f"| {row['chi2'][0]:.3f} → {row['chi2'][1]:.3f} "
        f"| {row['seconds'][1]:.0f} s / {row['seconds'][0]:.0f} s "
        f"{'' if row['determined'] else 'not used '}|"
    )


def main() -> None:
    """Print a row for each world."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("names", help="world, worlds with commas between them, or all")
    ask.add_argument("seed", type=int)
    ask.add_argument("--folder", type=Path, required=True)
    ask.add_argument("--counts", type=float, help="diffuse counts per voxel")
    ask.add_argument("--span", type=float, help="degrees of each rotation")
    ask.add_argument("--shape", type=int, nargs=2, default=(240, 256), help="multiples of 60, 64")
    ask.add_argument("--larger", type=float, help="shape given, too large by this share")
    ask.add_argument("--outgoing", action="store_true", help="with `outgoing_step`")
    ask.add_argument("--again", action="store_true", help="repeat refine_scale")
    ask.add_argument("--table", action="store_true", help="print the rows that exist")
    a = ask.parse_args()
    changes = {k: getattr(a, k) for k in ("counts", "span") if getattr(a, k) is not None}
    print(HEAD)
    for name in list(PLANS) if a.names == "all" else a.names.split(","):
        parts = [
            name.replace(" ", "-"),
            a.seed,
            *a.shape,
            *(f"{k}{v:g}" for k, v in changes.items()),
        ]
        if a.larger is not None:
            parts.append(f"larger{a.larger:g}")
        if a.outgoing:
            parts.append("outgoing")
        folder = a.folder / "-".join(map(str, parts))
        case = Case(world(name, a.seed, tuple(a.shape), **changes), folder, a.larger, a.outgoing)
        kept = case.folder / "row.json"
        if a.again:
            for file in ("refined_scale.nxs", "refined_scale.json", "r.png", "row.json"):
                (case.folder / file).unlink(missing_ok=True)
            for path in case.each("after.nxs"):
                path.unlink(missing_ok=True)
        if a.table and not kept.exists():
            continue
        if not kept.exists():
            case.folder.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(judged(case)))
        row = json.loads(kept.read_text())
        print(line(row), flush=True)
        for text in [*row["said by frame_scale"], *row["said"]]:
            print(f"    {text}", flush=True)


if __name__ == "__main__":
    main()
