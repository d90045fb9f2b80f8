"""The contenders: what is run, on how many frames, and what its figure includes."""

import json
import sys

from benchmarks.speed.run import FRAME, Job, Place, absent, dials, dials_absent, python_module

GRIDS = (301, 501)


def transform(place: Place) -> list[Job]:
    """Frames to volumes."""
    both = "read, decode, bin"
    peers = [
        ("meerkat, all in memory", "meerkat_memory", "meerkat.meerkat", 40, "read CBF, bin"),
        ("meerkat, default (volume in a file)", "meerkat_file", "meerkat.meerkat", 15,
         "read CBF, bin, write"),
        ("xrayutilities Gridder3D, kernel", "gridder3d", "xrayutilities", 40, "bin"),
        ("xrayutilities FuzzyGridder3D, kernel", "fuzzygridder3d", "xrayutilities", 40, "bin"),
        ("xrayutilities Gridder3D", "gridder3d_whole", "xrayutilities", 40, both),
        ("numpy, `np.add.at`", "numpy_add_at", "numpy", 40, both),
        ("numpy with ImageD11's C scatter", "imaged11", "ImageD11.cImageD11", 40, both),
    ]  # fmt: skip
    jobs: list[Job] = []
    for n in GRIDS:
        command = place.ours("transform", "--grid", n, "--frames", place.frames)
        jobs.append(Job("transform", "hklflow", command, n, place.frames, includes=both))
        jobs += _stage(place, n)
        for name, work, module, count, includes in peers:
            count = min(count, place.cbf - 3, place.frames - 3)
            command = place.peer(work, "--grid", n, "--frames", count)
            missing = absent(place, module)
            jobs.append(
                Job("transform", name, command, n, count, missing=missing, includes=includes)
            )
        jobs += _rs_mapper(place, n)
    return jobs


def _stage(place: Place, n: int) -> list[Job]:
    name = "hklflow, stage `transform` as a job"
    if place.frames != _facts(place)["frames"]:
        return [Job("transform", name, [], n, missing="needs all frames")]
    inputs = {
        "scan": "scan.nxs",
        "mask": "mask.nxs",
        "scale": "scale.nxs",
        "frame-mask": "frame_mask.nxs",
        "orientation": f"orientation_{n}.json",
    }
    command = [sys.executable, "-m", "hklflow.stages.transform", "--rotation", "r1"]
    for flag, file in inputs.items():
        command += [f"--{flag}", str(place.folder / file)]
    for flag in ("transform", "masked-transform"):
        command += [f"--{flag}", str(place.scratch / f"{flag}.nxs")]
    command += ["--samples", "1", "1", "1"]
    told = "start-up, read, decode, bin both volumes, write both"
    pixels = place.frames * FRAME
    return [Job("transform", name, command, n, place.frames, pixels, includes=told)]


def _rs_mapper(place: Place, n: int) -> list[Job]:
    from_file, few, missing = dials(place), 4, dials_absent()
    name, count = "dials.rs_mapper", min(64, place.frames)
    jobs: list[Job] = []
    for frames in (few, count):
        command = ["dials.rs_mapper", str(from_file / f"nxs_1_{frames}.expt"), f"grid_size={n}"]
        command += ["max_resolution=0.8144", "nproc=1", f"map_file={place.scratch / 'rs.mrc'}"]
        command += [f"output.log={place.scratch / 'rs.log'}"]
        jobs.append(
            Job("transform", name, command, n, frames, (frames - few) * FRAME or FRAME,
                less=jobs[0].key if jobs else None, shown=frames > few, missing=missing,
                includes="read, decode, bin in Q")
        )  # fmt: skip
    return jobs


def options(place: Place) -> list[Job]:
    """What more than the plain pass costs, 501³."""
    rows: list[tuple[str, tuple[object, ...]]] = [
        ("plain: blocks of 32 frames, one thread", ()),
        ("blocks of 1 frame", ("--block", 1)),
        ("masked and unmasked volume from one pass", ("--keep-excluded",)),
        ("2 × 2 × 1 sub-samples (slow, fast, frame)", ("--samples", 1, 2, 2)),
        ("2 × 2 × 2 sub-samples", ("--samples", 2, 2, 2)),
        ("two threads", ("--threads", 2)),
        ("ten times the frames, a full turn", ("--turn", "--frames", 10 * place.frames)),
    ]
    common = ("--grid", 501, "--frames", place.frames)
    return [
        Job("options", name, place.ours("transform", *common, *more), 501, place.frames)
        for name, more in rows
    ]


def roofline(place: Place) -> list[Job]:
    """What the machine can do."""
    count = place.frames - 2

    def limit(work: str, n: int = 501) -> list[str]:
        return python_module(sys.executable, "roofline", work, place.folder, "--grid", n)

    jobs = [
        Job("roofline", "decode, h5py", place.peer("h5py_decode", "--frames", count),
            missing=absent(place, "hdf5plugin")),
        Job("roofline", "decode, bitshuffle", place.peer("bitshuffle_decode", "--frames", count),
            missing=absent(place, "bitshuffle.ext")),
        Job("roofline", "decode, hklflow", place.ours("decode", "--frames", place.frames)),
        Job("roofline", "index", limit("index")),
        Job("roofline", "scatter", limit("scatter")),
        Job("roofline", "copy", limit("copy")),
    ]  # fmt: skip
    jobs += [Job("roofline", "updates", limit("updates", n), n, once=True) for n in GRIDS]
    return jobs


def peaks(place: Place) -> list[Job]:
    """Peak search and frame statistics."""
    rows = {
        "hklflow, peaks and frame statistics": "both",
        "hklflow, peaks": "peaks",
        "hklflow, frame statistics": "statistics",
    }
    jobs = [
        Job("peaks", name, place.ours(work, "--frames", place.frames), frames=place.frames)
        for name, work in rows.items()
    ]
    few, count = 4, min(place.cbf, place.frames)
    for source, told in (("nxs", "the same NXmx file"), ("cbf", "CBF")):
        first = None
        for frames in (few, count):
            command = ["dials.find_spots", str(dials(place) / f"{source}_1_{frames}.expt")]
            command += ["nproc=1", f"output.reflections={place.scratch / 'strong.refl'}"]
            command += [f"output.log={place.scratch / 'spots.log'}"]
            job = Job(
                "peaks", f"dials.find_spots, {told}", command, 0, frames,
                (frames - few) * FRAME or FRAME, less=first, shown=frames > few,
                missing=dials_absent(),
            )  # fmt: skip
            first = first or job.key
            jobs.append(job)
    return jobs


def memory(place: Place) -> list[Job]:
    """Peak memory at 1001³."""
    rows: list[tuple[str, int, tuple[object, ...]]] = [
        ("10° wedge", 100, ()),
        ("full turn", 3600, ("--turn",)),
    ]
    complete = _facts(place)["frames"] == 360
    return [
        Job("memory", name, place.ours("transform", "--grid", 1001, "--frames", n, *more), 1001, n,
            once=True, missing=None if complete else "needs 360 frames")
        for name, n, more in rows
    ]  # fmt: skip


PARTS = {f.__name__: f for f in (transform, options, roofline, peaks, memory)}


def _facts(place: Place) -> dict[str, int]:
    facts: dict[str, int] = json.loads((place.folder / "facts.json").read_text())
    return facts
