"""Worlds of a quantitative S(Q) reduced with their backgrounds, and the truth on the same grid."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hklflow import nexus, stage
from hklflow.geometry.grid import Grid, pixel_pitch, sub_samples
from hklflow.images.frame_scale import FrameScale, constant
from hklflow.stages import background, import_scan, merge, transform
from hklflow.transform.binning import Accumulator
from tests.truth.orientations import write_orientation
from tests.truth.quantitative import World

Runs = dict[str, dict[str, Any]]
STEP = (0.1, 0.1, 0.1)
_OF_CRYSTAL = ("diffuse", "bragg", "compton", "fluorescence")


@dataclass
class Measured:
    """A world reduced with its backgrounds, and the truth.

    Attributes
    ----------
    net, norm, variance, expected : (l, k, h) arrays
        Counts without background, norm, variance, and the background that was subtracted.
    crystal, truth, bragg : (l, k, h) arrays
        Expected counts of the crystal, of the background, and of the Bragg reflections.
    """

    net: np.ndarray
    norm: np.ndarray
    variance: np.ndarray
    expected: np.ndarray
    crystal: np.ndarray
    truth: np.ndarray
    bragg: np.ndarray
    q: np.ndarray
    folder: Path


def write_empty(w: World, source: Path, target: Path, expected: np.ndarray, seed: int) -> None:
    """Write a run like the run `source`, with other expected counts (slow, fast)."""
    shutil.copy(source, target)
    rng = np.random.default_rng(seed)
    with h5py.File(target, "r+") as file:
        data = file["entry/data/data"]
        for z in range(len(data)):
            frame = rng.poisson(expected).astype(np.uint32)
            data[z] = np.where(w.blind, data[z], frame)


def reduced(w: World, folder: Path, runs: Runs, **params: Any) -> Measured:
    """Run the stages on a world that `write` has written, and sum the truth on the same grid."""
    sample = w.name.replace(" ", "-")
    nexus.write_mask(folder / "mask.nxs", w.blind.astype(np.uint32))
    rotations, scans = {}, {}
    for r in range(len(w.scans)):
        path = folder / f"scan{r}.nxs"
        if not path.exists():
            _run(
                import_scan,
                {"raw": [folder / "raw" / f"{sample}_300K_r{r + 1}.nxs"]},
                {"scan": path},
            )
        scans[r] = nexus.read_scan(path)
        rotations[f"r{r + 1}"] = scans[r].rotation
    q_max = float(w.q[~w.blind].max())
    grid = Grid.covering(w.crystal.cell, q_max, STEP)
    write_orientation(folder / "orientation.json", rotations, w.UB, grid=grid)
    sums = np.zeros((3, *grid.array_shape))
    volumes = []
    for r, scan in scans.items():
        volumes.append(_transformed(folder, r, scan, runs, **params))
        samples = sub_samples(pixel_pitch(scan.rotation, w.UB, grid))
        used = [part.level for part in nexus.read_background(folder / f"background{r}.nxs")]
        good = np.where(w.blind | ~np.isfinite(np.sum(used, axis=0)), 0.0, 1.0)
        ones = np.ones(w.scans[r].n_frames)
        truth = [Accumulator(scan.rotation, w.UB, grid, good, ones, samples) for _ in range(3)]
        for z in range(w.scans[r].n_frames):
            parts = w.parts(r, z)
            total = np.sum(list(parts.values()), axis=0)
            crystal = sum(parts.get(n, 0 * w.q) for n in _OF_CRYSTAL)
            for accumulator, image in zip(
                truth, (crystal, total - crystal, parts["bragg"]), strict=True
            ):
                accumulator.add(image[None], z)
        sums += [accumulator.total()[0] for accumulator in truth]
    _run(
        merge,
        {"volumes": volumes},
        {
            "volume": folder / "merged.nxs",
            "slices": folder / "s.png",
            "coverage": folder / "c.png",
            "metrics": folder / "merged.json",
        },
    )
    with h5py.File(folder / "merged.nxs") as file:
        found = file["entry/transform"]
        net, norm, variance, expected = (
            found[n][()].astype(float) for n in ("counts", "norm", "variance", "background")
        )
    hkl = np.stack(np.meshgrid(*(grid.axis(i) for i in (2, 1, 0)), indexing="ij")[::-1], axis=-1)
    q = np.linalg.norm(hkl @ w.crystal.B.T, axis=-1)
    return Measured(net, norm, variance, expected, sums[0], sums[1], sums[2], q, folder)


def _transformed(folder: Path, r: int, scan: Any, runs: Runs, **params: Any) -> Path:
    """Run `background` and `transform` on one rotation."""
    n = scan.rotation.scan.n_frames
    ones = np.ones(n)
    made = constant(ones)
    scale = FrameScale(scan.monitor, scan.attenuation, ones, made, 1.0, 1.0, "none")
    nexus.write_scale(folder / f"scale{r}.nxs", scale, ones)
    with nexus.FrameMaskWriter(folder / "frame_mask.nxs", (n, *scan.rotation.detector.shape)) as m:
        m.append(np.zeros((n, m._shape[1], (m._shape[2] + 7) // 8), np.uint8), np.zeros(n))
    own = {
        name: {k: (Path(str(v).format(r=r)) if k == "transmission" else v) for k, v in run.items()}
        for name, run in runs.items()
    }
    inputs = {"scan": folder / f"scan{r}.nxs", "mask": folder / "mask.nxs"}
    statistics = folder / f"statistics{r}.nxs"
    write_even_statistics(statistics, scan)
    _run(
        background,
        inputs | {"statistics": statistics},
        {
            "background": folder / f"background{r}.nxs",
            "picture": folder / f"background{r}.png",
            "metrics": folder / f"background{r}.json",
        },
        runs=own,
        curve={"source": "none"},
    )
    _run(
        transform,
        inputs
        | {
            "scale": folder / f"scale{r}.nxs",
            "frame_mask": folder / "frame_mask.nxs",
            "orientation": folder / "orientation.json",
            "background": folder / f"background{r}.nxs",
        },
        {n: folder / f"{n}{r}.nxs" for n in ("transform", "masked_transform")},
        rotation=f"r{r + 1}",
        **params,
    )
    return folder / f"transform{r}.nxs"


def write_even_statistics(path: Path, scan: Any) -> None:
    """Write statistics of frames with the same level, for stages that use no course."""
    ones = np.ones(scan.rotation.scan.n_frames)
    arrays = dict.fromkeys(("frame_sum", "background", "monitor", "pixels"), ones)
    shape = scan.rotation.detector.shape
    with nexus.statistics_output(path, shape, np.dtype(np.uint32), ()) as output:
        output.write(arrays, {})


def _run(module: Any, inputs: dict[str, Any], outputs: dict[str, Path], **params: Any) -> None:
    stage.run(
        module.main,
        inputs=module.Inputs(**inputs),
        outputs=module.Outputs(**outputs),
        params=module.Params(**params),
        threads=1,
    )


def figures(m: Measured, n_rotations: int) -> dict[str, float]:
    """Return bias and pulls; voxels and blocks with much Bragg intensity are left out."""
    off = m.net - m.crystal
    use = (m.norm > 0) & (m.bragg < 0.02 * (m.crystal + m.truth)) & (m.crystal + m.truth > 5)
    noise = m.variance - m.net - m.expected
    notes = stage.read_json(m.folder / "merged.json")
    del notes
    with nexus.open_volume(m.folder / "merged.nxs") as volume:
        notes = volume.notes
    key = "variance of the background in a sum of voxels, over the sum of their variances"
    growth = np.mean([g["5 x 5 x 5 voxels"] for g in notes[key].values()])
    total = m.crystal + m.truth
    voxel = off[use] / np.sqrt(total[use] + noise[use])
    blocks = [_blocks(np.where(use, x, 0)) for x in (off, total, noise, use)]
    full = blocks[3] > 60
    plain = (blocks[0] / np.sqrt(np.maximum(blocks[1] + blocks[2], 1e-9)))[full]
    right = (blocks[0] / np.sqrt(np.maximum(blocks[1] + growth * blocks[2], 1e-9)))[full]
    edges = np.linspace(m.q[use].min(), m.q[use].max() + 1e-9, 31)
    shell = np.digitize(m.q[use], edges) - 1
    s = [np.bincount(shell, x[use], 30) for x in (off, total, m.expected, m.crystal)]
    seen = s[1] > 0
    common = np.zeros(30)
    for r in range(n_rotations):
        with h5py.File(m.folder / f"background{r}.nxs") as file:
            radial = file["entry/radial"]
            relative = radial["background_errors"][()] / np.maximum(radial["background"][()], 1e-9)
            common += np.interp((edges[:-1] + edges[1:]) / 2, radial["q"][()], relative)
    # 60 shells of the stage, 30 of this comparison.
    common = s[2] * common / n_rotations / np.sqrt(2)
    shells = (s[0] / np.sqrt(s[1] + common**2))[seen]
    return {
        "bias of the crystal's counts": float(off[use].sum() / m.crystal[use].sum()),
        "share of the background": float(m.truth[use].sum() / total[use].sum()),
        "largest bias of a shell": float(np.abs(s[0] / np.maximum(s[3], 1e-9))[seen].max()),
        "voxels: pull mean": float(voxel.mean()),
        "voxels: pull width": float(voxel.std()),
        "blocks": int(full.sum()),
        "blocks: pull mean": float(right.mean()),
        "blocks: pull width, errors added": float(plain.std()),
        "blocks: pull width": float(right.std()),
        "growth of the background's variance": float(growth),
        "shells: pull mean": float(shells.mean()),
        "shells: pull rms": float(np.sqrt((shells**2).mean())),
        "shells: rms without the common noise": float(
            np.sqrt((s[0][seen] ** 2 / s[1][seen]).mean())
        ),
    }


def _blocks(a: np.ndarray) -> np.ndarray:
    """Sum blocks of 5 x 5 x 5 voxels."""
    a = a.astype(float)[tuple(slice(0, n // 5 * 5) for n in a.shape)]
    return a.reshape(a.shape[0] // 5, 5, a.shape[1] // 5, 5, -1, 5).sum(axis=(1, 3, 5))


def texts(w: World, folder: Path) -> None:
    """Write the true transmissions of each frame: straight beam, and of the capillary."""
    for r in range(len(w.scans)):
        np.savetxt(folder / f"through{r}.txt", w.nodes(r, "through"))
        if w.absorber.tube is not None:
            alone = w.absorber.container(np.eye(3), w.node_rays, sample=False)
            ratio = w.nodes(r, "container") / alone
            np.savetxt(folder / f"capillary{r}.txt", ratio.mean(axis=(1, 2)))


def plate(w: World, folder: Path) -> dict[str, Runs]:
    """Return runs: one for all air with its mean share behind the crystal, or two."""
    empty, of = folder / "raw" / "plate_empty.nxs", w._images
    before, behind = of["air before"], of["air behind"]
    run = w.surroundings.empty
    assert run is not None
    per = run.beam * run.exposure * run.attenuator * w.scale
    for name, image, seed in (("before", before, 1), ("behind", behind, 2)):
        write_empty(w, empty, folder / f"{name}.nxs", per * image, seed)
    through = folder / "through{r}.txt"
    share = float(behind[~w.blind].sum() / (before + behind)[~w.blind].sum())
    one: dict[str, Any] = {
        "raw": str(empty),
        "seen_through": "part",
        "share": share,
        "transmission": through,
    }
    two: Runs = {
        "before": {"raw": str(folder / "before.nxs"), "seen_through": "not"},
        "behind": {
            "raw": str(folder / "behind.nxs"), "seen_through": "crystal", "transmission": through,
        },
    }  # fmt: skip
    return {"one run, mean share": {"air": one}, "two runs": two}


def capillary(w: World, folder: Path) -> dict[str, Runs]:
    """Return runs: one for all, seen through the crystal; or air without a capillary, and all."""
    empty, of = folder / "raw" / "capillary_empty.nxs", w._images
    run = w.surroundings.empty
    assert run is not None
    per = run.beam * run.exposure * run.attenuator * w.scale
    alone = w.on_pixels(w.absorber.container(np.eye(3), w.node_rays, sample=False))
    for name, image, seed in (
        ("before", of["air before"], 1),
        ("behind", of["air behind"], 2),
        ("tube", alone * of["capillary"], 3),
    ):
        write_empty(w, empty, folder / f"{name}.nxs", per * image, seed)
    through, glass = folder / "through{r}.txt", folder / "capillary{r}.txt"
    behind = {"raw": str(folder / "behind.nxs"), "seen_through": "crystal", "transmission": through}
    apart: Runs = {
        "before": {"raw": str(folder / "before.nxs"), "seen_through": "not"},
        "behind": behind,
        "tube": {"raw": str(empty), "seen_through": "crystal", "transmission": glass,
                 "contains": ["before", "behind"]},
    }  # fmt: skip
    return {"air in front, air behind, and all with the capillary": apart}


RUNS = {"plate": plate, "capillary": capillary}
