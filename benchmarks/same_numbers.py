"""Every number of every product before and after a change of the code that may change none.

    python -m benchmarks.same_numbers make DATA FOLDER
    python -m benchmarks.same_numbers compare BEFORE AFTER

``make`` reduces, with the code that is imported, the demo, the measurements of DATA (folders
`rotation_snase`, `rotation_lcysteine` and `diffuse_pmnpt`), and simulated frames of each crystal
system. ``compare`` reads two such folders: arrays of HDF5 files bit for bit, figures of JSON files,
cells of tables. Names, sentences, times and versions may differ. Exit code 1 if a number does.
"""

# isort: off
import hklflow  # noqa: F401  (first, see hklflow/base/native.py)
# isort: on

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tests.truth import frames, lcysteine, pmnpt, snase
from tests.truth.frame_scans import reduced
from tests.truth.worlds_draft import SYSTEMS

_ROOT = Path(__file__).parents[1]
_OF_THE_RUN = re.compile(
    r"seconds|duration|time|date|memory|mebibytes|version|threads|digest|hash|sha256|size_bytes|mtime"
    r"|fingerprint|stamp|_s$|rate|host|pid|inode"
)
"""Names of figures that belong to a run, not to its result."""


_FOLDERS = re.compile(r"^/.*/(?=[^/]*/[^/]*$)")


def make(data: Path, out: Path) -> None:
    """Make the products of all cases below `out`, which must not exist."""
    out.mkdir(parents=True)
    _demo(out / "demo")
    _snase(data / "rotation_snase", out / "snase")
    _lcysteine(data / "rotation_lcysteine", out / "lcysteine")
    _pmnpt(data / "diffuse_pmnpt", out / "pmnpt")
    for i, system in enumerate(SYSTEMS):
        for kind in ("plain", "second_lattice", "slip")[: 1 + 2 * (i == 1)]:
            print(f"{kind} {system}", flush=True)
            reduced(frames.frame_world(kind, system, 600 + i), out / f"{kind}_{system}")


def _demo(out: Path) -> None:
    shutil.copytree(_ROOT / "demo" / "config", out / "config")
    command = ["snakemake", "--snakefile", _ROOT / "Snakefile", "--directory", out]
    subprocess.run([*command, "--cores", "2", "--quiet", "all"], check=True)


def _snase(data: Path, out: Path) -> None:
    out.mkdir()
    snase.frames(data, out)
    snase.peaks(out)
    snase.lattice_and_orientation(out, 1 / 3, None)
    snase.volume(out)


def _lcysteine(data: Path, out: Path) -> None:
    out.mkdir()
    for sweep in lcysteine.SWEEPS:
        lcysteine.peaks(data, out, sweep)
    lcysteine.orientation(out, lcysteine.SWEEPS, "all")


def _pmnpt(data: Path, out: Path) -> None:
    out.mkdir()
    pmnpt.prepare(data, out, 150, 250)
    pmnpt.corrected(data, out, 31, 150, 250)


def compare(before: Path, after: Path) -> bool:
    """Print each number that differs, and how many were compared; return True if none does."""
    files = {p.relative_to(before) for p in before.rglob("*") if _is_product(p)}
    others = {p.relative_to(after) for p in after.rglob("*") if _is_product(p)}
    different = [f"{name}: only in one folder" for name in sorted(files ^ others)]
    compared = 0
    for name in sorted(files & others):
        one, other = dict(_numbers(before / name)), dict(_numbers(after / name))
        compared += len(one)
        for key in sorted(one.keys() | other.keys()):
            if key not in one or key not in other:
                different.append(f"{name} {key}: only in one folder")
            elif not _same(one[key], other[key]):
                different.append(f"{name} {key}: {_short(one[key])} -> {_short(other[key])}")
    print("\n".join(different))
    print(f"{compared} arrays and figures of {len(files & others)} files: {len(different)} differ")
    return not different


def _is_product(path: Path) -> bool:
    kinds = {".nxs", ".h5", ".hdf5", ".json", ".tsv", ".npy", ".cif", ".fcf", ".hkl", ".mtz"}
    inside = {"logs", "benchmarks", ".snakemake", "log"}
    return path.suffix in kinds and path.is_file() and not inside & set(path.parts)


def _numbers(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and value of each number of a file."""
    if h5py.is_hdf5(path):
        arrays: dict[str, Any] = {}

        def visit(name: str, node: Any) -> None:
            if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "biufc":
                return
            if not _OF_THE_RUN.search(name.rpartition("/")[2]):
                arrays[name] = node[()]

        with h5py.File(path, "r") as file:
            file.visititems(visit)
        yield from arrays.items()
    elif path.suffix == ".json":
        yield from _leaves(json.loads(path.read_text()), "")
    elif path.suffix == ".npy":
        yield "", np.load(path)
    else:
        yield "", path.read_bytes()


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            if not _OF_THE_RUN.search(key):
                # Products are named by their paths, which are those of a folder.
                yield from _leaves(item, f"{name}/{_FOLDERS.sub('', key)}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{name}/{i}")
    elif isinstance(value, int | float):
        yield name, value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return (
            one.dtype == other.dtype
            and one.shape == other.shape
            and one.tobytes() == other.tobytes()
        )
    return bool(one == other or (one != one and other != other))


def _short(value: Any) -> str:
    return (
        np.array2string(np.asarray(value).ravel()[:3], precision=17)
        if not isinstance(value, bytes)
        else f"{len(value)} bytes"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]), Path(sys.argv[3]).absolute())
    else:
        sys.exit(not compare(Path(sys.argv[2]), Path(sys.argv[3])))
