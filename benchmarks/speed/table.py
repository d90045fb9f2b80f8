"""The tables of a run as Markdown."""

import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks import chain

Results = dict[str, Any]
Row = list[str]


def document(results: Results) -> str:
    """All tables with what one must know to read them."""
    sections = [_head(results), _transform(results), _options(results), _roofline(results)]
    sections += [_peaks(results), _memory(results), _chain(results), _agree(results)]
    return "\n\n".join(section for section in sections if section) + "\n"


# ----------------------------------------------------------------------------- numbers


def _runs(results: Results, key: str, field: str) -> list[float]:
    return [run[field] for run in results["jobs"][key]["runs"] if field in run]


def _seconds(results: Results, key: str) -> list[float]:
    """CPU seconds of each round, less the median of what is taken off."""
    less = results["jobs"][key]["less"]
    off = statistics.median(_runs(results, less, "cpu") or [0.0]) if less else 0.0
    return [cpu - off for cpu in _runs(results, key, "cpu")]


def rates(results: Results, key: str) -> list[float]:
    """Million pixels (or additions, or bytes) per CPU second, one per round."""
    amounts = _runs(results, key, "pixels")
    pairs = zip(amounts, _seconds(results, key), strict=True)
    return [1e-6 * n / s for n, s in pairs if s > 0]


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _spread(values: list[float]) -> str:
    if not values:
        return "–"
    text = _number(statistics.median(values))
    if len(values) > 2:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        text += f" ({_number(low)}–{_number(high)})"
    return text


def _find(
    results: Results, part: str, name: str | None = None, grid: int | None = None
) -> list[str]:
    return [
        key
        for key, job in results["jobs"].items()
        if job["part"] == part
        and job["shown"]
        and name in (None, job["name"])
        and grid in (None, job["grid"])
    ]


def _rate_of(results: Results, part: str, name: str, grid: int | None = None) -> float | None:
    keys = _find(results, part, name, grid)
    return _median(rates(results, keys[0])) if keys else None


def _problem(results: Results, key: str) -> str | None:
    job = results["jobs"][key]
    failed = [run["failed"] for run in job["runs"] if "failed" in run]
    return job["missing"] or (f"failed: {failed[0]}" if failed else None)


def _gb(results: Results, key: str) -> str:
    found = _runs(results, key, "mb")
    return f"{max(found) / 1024:.2f} GB" if found else "–"


def _table(head: Row, rows: Iterable[Row], words: int = 1) -> str:
    """A table whose first columns are words and the others numbers."""
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    lines = [head, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# ---------------------------------------------------------------------------- sections


def _head(results: Results) -> str:
    facts, on = results["facts"], results["machine"]

    def listed(found: dict[str, str]) -> str:
        return ", ".join(f"{name} {version}" for name, version in found.items())

    return f"""# Benchmark

Written by `make bench` ({results["minutes"]} minutes, {on["date"]}).
[Performance](performance.md) explains what the figures mean for an experiment.

**Machine**: {on["cpu"]}, {on["cores"]} cores, {on["memory GB"]} GB, {on["system"]}; load average
{results["load before"]} when the run began.
hklflow's environment: {listed(on["hklflow"])}.
Other programs' environment: {listed(on["peers"])}; DIALS {on["dials"] or "not installed"}.

**Data**: {facts["frames"]} simulated frames of 1024 × 1024 pixels, 0.1° each, 60 keV, a crystal of
5.2 × 5.6 × 7.9 Å in a random orientation; {100 * facts["masked"]:.1f} % of the pixels masked,
{facts["mean counts"]:.2f} counts per pixel on average, Bragg peaks up to {facts["largest count"]};
NXmx with bitshuffle-LZ4 at {facts["bits per pixel"]:.1f} bits per pixel, in the page cache.
Grids of ± 6.4, 6.9, 9.7 r.l.u.: a voxel is 4 pixels wide at 301³, 2.4 at 501³.

**Rates** are millions of raw detector pixels (masked ones included) per CPU second (user and system
time of all threads and processes): the median of {results["rounds"]} rounds, with quartiles. In
every round all programs run once, in random order, each in its own process. The time of compilation
(numba) and imports is not counted; for the other programs, neither tables of Q nor the first touch
of their memory is counted; for the DIALS programs, the cost of the same command on four frames is
subtracted. All programs use one thread unless stated otherwise, also in BLAS and OpenMP. Slow
programs get fewer frames. Peak memory is the memory of the whole process with interpreter and
libraries."""


def _transform(results: Results) -> str:
    keys = _find(results, "transform")
    grids = sorted({results["jobs"][key]["grid"] for key in keys})
    names = list(dict.fromkeys(results["jobs"][key]["name"] for key in keys))
    if not names:
        return ""
    rows = []
    for name in names:
        first = results["jobs"][_find(results, "transform", name)[0]]
        row = [name, first["includes"], str(first["frames"] or "–")]
        for grid in grids:
            key = _find(results, "transform", name, grid)[0]
            own = _rate_of(results, "transform", "hklflow", grid)
            rate = _median(rates(results, key))
            problem = _problem(results, key)
            row += [problem or _spread(rates(results, key))]
            row += [f"{_number(own / rate)} ×" if own and rate and "hklflow" not in name else "–"]
        rows.append([*row, _gb(results, key)])
    head = ["program", "includes", "frames"]
    for grid in grids:
        head += [f"{grid}³: Mpixel per CPU s", f"hklflow is faster by, {grid}³"]
    text = _table([*head, f"peak memory, {grids[-1]}³"], rows, 2)
    return f"## Transform: frames to counts and norm on the hkl grid\n\n{text}"


def _options(results: Results) -> str:
    keys = _find(results, "options")
    if not keys:
        return ""
    plain = _median(rates(results, keys[0]))
    rows, walls = [], {}
    for key in keys:
        job, rate = results["jobs"][key], _median(rates(results, key))
        walls[job["name"]] = wall = _median(_runs(results, key, "wall"))
        cost = f"{plain / rate:.2f} ×" if plain and rate else "–"
        told = _problem(results, key) or _spread(rates(results, key))
        span = f"{wall:.2f} s" if wall else "–"
        rows.append([job["name"], told, cost, span, _gb(results, key)])
    head = ["transform, 501³", "Mpixel per CPU s", "CPU time per pixel", "wall time"]
    text = "## Cost of the transform's options\n\n" + _table([*head, "peak memory"], rows)
    one, two = walls[results["jobs"][keys[0]]["name"]], walls.get("two threads")
    if one and two:
        text += f"\n\nTwo threads take {two / one:.2f} of the wall time of one."
    return text


def _roofline(results: Results) -> str:
    keys = _find(results, "roofline")
    if not keys:
        return ""
    units = {
        "decode, h5py": "Mpixel/s, read and decode with h5py and hdf5plugin",
        "decode, bitshuffle": "Mpixel/s, direct chunk read and the bitshuffle package",
        "decode, hklflow": "Mpixel/s, hklflow's reader",
        "index": "Mpixel/s, voxel of every pixel, single precision, in cache",
        "scatter": "million random additions of (C, M) per second, level-2 cache",
        "copy": "MB/s, copy of memory (read and written)",
    }
    rows = []
    for name, what in units.items():
        for key in _find(results, "roofline", name):
            told = _problem(results, key) or _spread(rates(results, key))
            rows.append([name, what, told])
    text = "## Roofline: cost of the parts\n\n"
    text += _table(["part", "measurement", "per CPU second"], rows, 2)
    index, scatter = (_rate_of(results, "roofline", name) for name in ("index", "scatter"))
    rows = []
    for key in _find(results, "roofline", "updates"):
        grid, found = results["jobs"][key]["grid"], _runs(results, key, "updates")
        own = _rate_of(results, "transform", "hklflow", grid)
        for decoder in ("decode, bitshuffle", "decode, hklflow"):
            decode = _rate_of(results, "roofline", decoder)
            if not (decode and index and scatter and found):
                continue
            cost = [1e3 / decode, 1e3 / index, 1e3 * found[0] / scatter]
            row = [f"{grid}³, {decoder}", f"{found[0]:.3f}", *(f"{part:.2f}" for part in cost)]
            row += [f"{1e3 / sum(cost):.0f}"]
            rows.append([*row, f"{sum(cost) * own / 10:.0f} %" if own else "–"])
    head = ["roofline", "additions per pixel", "decode, ns", "index, ns", "additions, ns"]
    text += "\n\nA pixel stays in a voxel for some frames, and is added once when it leaves.\n\n"
    return text + _table([*head, "Mpixel per CPU s", "hklflow reaches"], rows)


def _peaks(results: Results) -> str:
    keys = _find(results, "peaks")
    if not keys:
        return ""
    own = _rate_of(results, "peaks", "hklflow, peaks and frame statistics")
    rows = []
    for key in keys:
        job, rate = results["jobs"][key], _median(rates(results, key))
        ratio = f"{_number(own / rate)} ×" if own and rate and "dials" in job["name"] else "–"
        told = _problem(results, key) or _spread(rates(results, key))
        rows.append([job["name"], str(job["frames"]), told, ratio, _gb(results, key)])
    head = ["program", "frames", "Mpixel per CPU s", "peaks and statistics are faster by"]
    text = "## Peak search and frame statistics\n\n" + _table([*head, "peak memory"], rows)
    decode = _rate_of(results, "roofline", "decode, hklflow")
    if own and decode:
        text += (
            f"\n\nPeaks and statistics in one pass run at {100 * own / decode:.0f} % of the rate "
        )
        text += "at which hklflow decodes the frames."
    last = [run for run in results["jobs"][keys[0]]["runs"] if "recall" in run]
    if last:
        text += (
            f" Of {last[-1]['sure']} clear simulated peaks (ten standard deviations, away from "
            f"gaps) {100 * last[-1]['recall']:.1f} % are found, at a median distance of "
            f"{last[-1]['median offset']:.3f} pixels or frames from their true places."
        )
    return text


def _memory(results: Results) -> str:
    keys = _find(results, "memory")
    if not keys:
        return ""
    rows = []
    for key in keys:
        job, before = results["jobs"][key], _median(_runs(results, key, "before"))
        told = _problem(results, key) or _spread(rates(results, key))
        start = f"{before / 1024:.2f} GB" if before else "–"
        rows.append([job["name"], str(job["frames"]), told, _gb(results, key), start])
    head = ["transform, 1001³", "frames", "Mpixel per CPU s", "peak memory"]
    head += ["memory before the first frame"]
    return "## Memory of a large grid\n\n" + _table(head, rows)


def _chain(results: Results) -> str:
    if not results["chain"]:
        return ""
    return f"""## The whole chain: every step of a scan, in passes of the decoder

Every step is the job that snakemake runs: with the start of Python, checksums and pictures, in a
process of its own. A decode is the CPU time of our decoder for one pass over the frames of the
rotation, in turn with the jobs. One scan of one rotation; the difference compares two temperatures.
The start of jobs (0.4 to 2 s each) does not grow with the frames: a longer rotation takes fewer
decodes. Other programs for single steps are in the sections above.

{chain.document(results["chain"])}"""


def _agree(results: Results) -> str:
    if not results["agree"]:
        return ""
    rows = []
    for name, found in results["agree"].items():
        counts = found.get("correlation of counts", found.get("correlation of means"))
        pixels = found.get("correlation of pixels")
        rows.append(
            [
                name,
                str(found["voxels"]),
                f"{counts:.7f}",
                f"{pixels:.7f}" if pixels is not None else "–",
                f"{100 * found['equal voxels']:.2f} %",
            ]
        )
    head = ["hklflow against", "voxels", "correlation of counts", "of numbers of pixels"]
    return f"""## The same work

Volumes (301³) of the first 20 frames: sums of raw counts and numbers of pixels are compared with
hklflow's (with a norm of 1), voxel by voxel. meerkat puts a frame half a slice before its centre;
rs_mapper maps Q, takes a pixel's corner for its centre and counts masked pixels as zeros (its means
are compared with hklflow's means in the same convention); Gridder3D leaves out the outer half of
the outermost voxels. The mappings are otherwise the same.

{_table([*head, "equal voxels"], rows)}"""
