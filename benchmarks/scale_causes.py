"""Where is the error that `refine_scale` leaves? One world, one cause after the other.

Rows are the visible error of the factor (rms over frames and directions, and of the frames alone):

* *splines*: the true factor less its least-squares fit by the splines;
* *no noise*: fit of records that are exactly the true factor times one S for each orbit;
* *counts*: fit of the same records with counting noise;
* *measured*: fit of the measured records, with voxels that are not points, and backgrounds.

The folder is that of `scale_truth`, which makes what is missing.

    python -m benchmarks.scale_causes plate 11 --folder WORK --shape 120 128
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.interpolate import RegularGridInterpolator
from tests.truth.quantitative_catalogue import world
from tests.truth.quantitative_gauge import at_blocks, gauge_free

from benchmarks.scale_truth import ANOMALOUS, FIELDS, Case, course, prepared
from hklflow import nexus, stage
from hklflow.stages import refine_scale
from hklflow.transform import redundancy
from hklflow.transform.redundancy import Places, Scale, Splines
from hklflow.transform.repeats import Records
from hklflow.transform.scale_splines import basis


def wanted(case: Case, at: Places, every: int) -> list[np.ndarray]:
    """Return ln(true factor / start) of each rotation (frames, slow, fast)."""
    fields = []
    for r, name in enumerate(case.names):
        own = nexus.read_scale(case.of(name, "scale.nxs"))
        start = np.log(own.monitor * own.attenuation * own.scale)
        frames = range(len(start))
        true = np.stack([at_blocks(np.log(case.world.factor(r, z)), every) for z in frames])
        fields.append(true - start[:, None, None])
    mean = np.mean(np.concatenate([field.ravel() for field in fields]))
    return [field - mean for field in fields]


def left_by_splines(splines: Splines, fields: list[np.ndarray], at: Places) -> list[np.ndarray]:
    """Return what no sum of the splines can follow."""
    left = []
    places = zip(at, splines.shape, splines.detector, strict=True)
    slow, fast = (np.linalg.qr(basis(x / n, m))[0] for x, n, m in places)
    one = np.outer(slow.T @ np.ones(len(slow)), fast.T @ np.ones(len(fast))).ravel()
    one /= np.linalg.norm(one)
    for r, field in enumerate(fields):
        z = np.arange(len(field)) + 0.5
        along = basis(z / len(field), splines.angle[r])
        both = np.concatenate([splines.terms_of_curve(r, z), along], axis=1)
        of_curve, size, _ = np.linalg.svd(both, full_matrices=False)
        of_curve, along = of_curve[:, size > 1e-8 * size[0]], np.linalg.qr(along)[0]
        flat = np.einsum("zsf,si,fj->zij", field, slow, fast).reshape(len(field), -1)
        level = flat @ one
        fit = along @ (along.T @ (flat - np.outer(level, one)))
        fit += np.outer(of_curve @ (of_curve.T @ level), one)
        fit = fit.reshape(len(field), slow.shape[1], fast.shape[1])
        left.append(field - np.einsum("zij,si,fj->zsf", fit, slow, fast))
    return left


def made(records: Records, fields: list[np.ndarray], at: Places, noise: bool) -> Records:
    """Return records of the true factor and one S for each orbit."""
    norm = records.norm.astype(float)
    for r, field in enumerate(fields):
        own = records.rotation == r
        axes = np.arange(len(field)) + 0.5, *at
        value = RegularGridInterpolator(axes, field, bounds_error=False, fill_value=None)
        norm[own] *= np.exp(value((records.frame[own], records.slow[own], records.fast[own])))
    first = np.flatnonzero(np.diff(records.voxel, prepend=-1))
    total, counts = (
        np.add.reduceat(values.astype(float), first)
        for values in (records.counts - records.background, records.counts)
    )
    level = np.maximum(total, 0.02 * counts) / np.add.reduceat(norm, first)
    mean = norm * np.repeat(level, np.diff(np.append(first, len(records)))) + records.background
    counts = np.random.default_rng(5).poisson(mean) if noise else mean
    return replace(records, counts=counts.astype(np.float32))


def left_by(found: Scale, fields: list[np.ndarray], at: Places) -> list[np.ndarray]:
    """Return the error of a fit."""
    left = []
    for r, field in enumerate(fields):
        curve, _ = found.of_frames(r)
        of = found.splines.of_direction(r, found.parameters, np.arange(len(field)) + 0.5, at)
        left.append(np.log(curve)[:, None, None] + of - field)
    return left


def row(case: Case, name: str, fields: list[np.ndarray], more: str = "") -> None:
    """Print the visible part of an error."""
    mean = np.mean(np.concatenate([field.ravel() for field in fields]))
    seen = gauge_free(case.world, [f - mean for f in fields], every=case.world.shape[0] // 60)
    frames = np.concatenate(course(case, seen))
    print(f"| {name:24s} | {seen.rms:.2%} | {np.sqrt(np.mean(frames**2)):.2%} | {more}", flush=True)


def main() -> None:
    """Print the rows of a world."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("name")
    ask.add_argument("seed", type=int)
    ask.add_argument("--folder", type=Path, required=True)
    ask.add_argument("--shape", type=int, nargs=2, default=(240, 256), help="multiples of 60, 64")
    a = ask.parse_args()
    of_world = "-".join(map(str, (a.name.replace(" ", "-"), a.seed, *a.shape)))
    case = Case(world(a.name, a.seed, tuple(a.shape)), a.folder / of_world)
    case.folder.mkdir(parents=True, exist_ok=True)
    prepared(case)
    every = a.shape[0] // FIELDS[0]
    at = Places(*(np.arange(n) * every + every // 2 + 0.5 for n in FIELDS))
    inputs = refine_scale.Inputs(
        scans=case.each("scan.nxs"),
        masks=case.each("mask.nxs"),
        scales=case.each("scale.nxs"),
        frame_masks=case.each("frame_mask.nxs"),
        orientation=case.folder / "orientation.json",
        backgrounds=[path for path in case.each("background.nxs") if path.exists()],
    )
    params = refine_scale.Params(friedel=a.name not in ANOMALOUS)
    orientation = stage.read_orientation(inputs.orientation)
    scans = [nexus.read_scan(path) for path in inputs.scans]
    rotations = [orientation.rotation(name) for name in case.names]
    task = refine_scale._Task(orientation, scans, case.names, rotations)
    plan = refine_scale._plan(task)
    assert plan is not None
    sums = refine_scale._records(task, plan, inputs, params)
    fields = wanted(case, at, every)
    for step, n in ((15, 4), (7.5, 6), (5, 8)):
        finer = params.model_copy(update={"direction_step": step, "direction_intervals": n})
        splines = refine_scale._splines(task, finer).with_start(sums.through)
        left = left_by_splines(splines, fields, at)
        row(case, f"splines {step:g}°, {n}", left, f"{splines.size} parameters")
    for name, records in (
        ("no noise", made(sums.records, fields, at, noise=False)),
        ("counts", made(sums.records, fields, at, noise=True)),
        ("measured", sums.records),
    ):
        found = redundancy.refine(
            records,
            refine_scale._splines(task, params),
            unknown=refine_scale._UNKNOWN_REST if inputs.backgrounds else refine_scale._UNKNOWN,
            every=sums.every,
            through=sums.through,
        )
        share = f"share {found.steady[0]:.1%} ± {found.steady[1]:.1%}"
        row(case, name, left_by(found, fields, at), share)


if __name__ == "__main__":
    main()
