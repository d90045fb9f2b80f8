"""Time to the first plane of `hklflow view`, and its memory, for volumes of 501³ and 1001³ voxels.

    python -m benchmarks.view_speed FOLDER

Writes an experiment with both volumes (cubic, 48 operations, with all blocks that the planes touch)
and a rotation of an EIGER2 4M (2162 × 2068 pixels) to FOLDER. Then, for each volume, starts
`hklflow view` as a user does and opens the page in Chromium. Columns: seconds from the command to
the printed address, from the address to the first plane on the screen, and the median of ten planes
along the slider; CPU seconds of the server for the first and for each next plane, which do not
depend on other programs; and its largest resident memory in MB. The last row is the same for
frames. Needs Chromium and plotly. Run it twice: the first run may read from disk.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
from tests.truth.chromium import Chromium, Page

from benchmarks.cuts import write
from hklflow import nexus
from hklflow.geometry import Beam, Detector, Goniometer, Rotation, Scan
from hklflow.images.scan import RotationScan

SIZES = {"501": 12.5, "1001": 25.0}
SHAPE, N = (2162, 2068), 20
DRAWN = "document.querySelector('#plane0 .heatmaplayer image')"


def make(base: Path) -> None:
    """Write the experiment."""
    for name in ("config", "raw", *(f"results/cube/{size}" for size in SIZES)):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "config/samples.tsv").write_text("sample\tspace_group\ncube\tP m -3 m\n")
    columns = ("sample", "scan", "temperature", "parent", "rotation", "raw", "calibration")
    rows = [columns, *(("cube", s, "", "", "r1", f"raw/{s}.h5", "lab") for s in SIZES)]
    (base / "config/scans.tsv").write_text("\n".join("\t".join(row) for row in rows) + "\n")
    for name in ("lab.poni", *(f"{size}.h5" for size in SIZES)):
        (base / "raw" / name).touch()
    (base / "config/config.yaml").write_text(
        "calibrations:\n  lab: {poni: raw/lab.poni, polarization: 0.99}\n"
    )
    for size, half in SIZES.items():
        path = base / f"results/cube/{size}/symm_transform.nxs"
        if not path.exists():
            write(path, half)
    if not (base / "results/cube/501/r1/scan.nxs").exists():
        _write_frames(base)


def _write_frames(base: Path) -> None:
    import hdf5plugin  # after hklflow, because cctbx crashes otherwise

    random = np.random.default_rng(0)
    with h5py.File(base / "raw/501.h5", "w") as file:
        frames = file.create_dataset(
            "entry/data/data",
            (N, *SHAPE),
            np.uint32,
            chunks=(1, *SHAPE),
            **hdf5plugin.Bitshuffle(cname="lz4"),
        )
        for i in range(N):
            frames[i] = random.poisson(0.3, SHAPE)
    detector = Detector(
        SHAPE,
        (75e-6, 75e-6),
        np.array([0.08, 0.08, 0.2]),
        np.array([0.0, -1.0, 0.0]),
        np.array([-1.0, 0.0, 0.0]),
    )
    axis = Goniometer.single([-1.0, 0.0, 0.0])
    scan = RotationScan(
        "raw/501.h5",
        0,
        Rotation(Beam(0.5), detector, axis, Scan(0.0, 0.001, N)),
        *(np.ones(N),) * 3,
        "none",
    )
    folder = base / "results/cube/501/r1"
    folder.mkdir(exist_ok=True)
    nexus.write_scan(folder / "scan.nxs", scan, "frames", None)


def run(base: Path, place: str, drawn: str, moved: str) -> dict[str, float]:
    """Times in s and memory in MB of one page."""
    start = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "hklflow.cli", "view", str(base), "--no-browser"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    started = time.perf_counter() - start
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        Chromium(Path(profile)) as browser,
    ):
        page = browser.page("about:blank")
        begin = _cpu(server.pid)
        start = time.perf_counter()
        page.open(url + place)
        page.wait(drawn)
        first, cpu = time.perf_counter() - start, [_cpu(server.pid) - begin]
        moves = [_moved(page, moved, i) for i in range(1, 11)]
        cpu.append((_cpu(server.pid) - begin - cpu[0]) / len(moves))
    status = Path(f"/proc/{server.pid}/status").read_text()
    server.kill()
    server.wait()
    (memory,) = re.findall(r"VmHWM:\s+(\d+)", status)
    return {
        "address": started,
        "first": first,
        "next": statistics.median(moves),
        "CPU first": cpu[0],
        "CPU next": cpu[1],
        "MB": int(memory) / 1024,
    }


def _cpu(process: int) -> float:
    """Return the CPU seconds that a process has used."""
    words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _moved(page: Page, moved: str, i: int) -> float:
    """Return the seconds of one move of the slider, with the 60 to 80 ms that it waits."""
    start = time.perf_counter()
    value, shown = moved.format(i=i, place=round(0.05 * i, 6)).split("|")
    page.set("slider", value, "input")
    page.wait(shown)
    return time.perf_counter() - start


def main() -> None:
    base = Path(sys.argv[1])
    make(base)
    rows = {}
    for size in SIZES:
        plane = "{place}|name0.textContent.endsWith('h k {place}')"
        place = f"#sample=cube&scan={size}&name=symm_transform.nxs"
        rows[f"plane of {size}³"] = run(base, place, DRAWN, plane)
    rows["frame of 4.5 Mpixel"] = run(
        base, "frames#sample=cube&scan=501", "state.layers.length", "{i}|state.asked.first === {i}"
    )
    columns = ("address", "first", "next", "CPU first", "CPU next")
    print(f"{'':20}{''.join(f'{name:>11}' for name in columns)}{'memory':>12}")
    for name, row in rows.items():
        times = "".join(f"{row[key]:9.2f} s" for key in columns)
        print(f"{name:20}{times}{row['MB']:9.0f} MB")
    (base / "view_speed.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
