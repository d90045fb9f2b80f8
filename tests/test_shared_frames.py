"""Rows of the table of scans with the same raw frames are refused, whatever the files' names."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hklflow.base import identity
from hklflow.base.errors import HklflowError
from hklflow.experiment import config, shared_frames
from hklflow.experiment.tables import FrameFiles
from hklflow.formats.header import Header
from hklflow.formats.light import write_light

N, SHAPE = 6, (8, 9)
HEAD = "sample\tscan\ttemperature\tparent\trotation\traw\tgoniometer\tcalibration\n"
SAME = "has the same frames as raw"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/samples.tsv").write_text("sample\tspace_group\nhexa\tP 1\ncube\tP 1\n")
    (tmp_path / "raw").mkdir()
    stack(tmp_path / "raw/a.nxs", 1)
    stack(tmp_path / "raw/b.nxs", 2)
    for i in range(N):
        (tmp_path / f"raw/s_{i:04d}.cbf").write_bytes(b"%d" % i * 100)
    return tmp_path


def stack(path: Path, seed: int) -> None:
    counts = np.random.default_rng(seed).poisson(9, (N, *SHAPE)).astype(np.uint16)
    with h5py.File(path, "w") as file:
        file["entry/data/data"] = counts


def master(path: Path, *data: str) -> None:
    """Write a file of Eiger style that takes its frames from others."""
    with h5py.File(path, "w") as file:
        file["entry/title"] = path.name
        for i, name in enumerate(data, start=1):
            file[f"entry/data/data_{i:06d}"] = h5py.ExternalLink(name, "/entry/data/data")


def virtual(path: Path, *frames: slice) -> None:
    """Write a virtual dataset of frames of a.nxs."""
    source = h5py.VirtualSource("a.nxs", "entry/data/data", (N, *SHAPE), np.uint16)
    parts = [source[own] for own in frames]
    n = [len(range(N)[own]) for own in frames]
    layout = h5py.VirtualLayout((sum(n), *SHAPE), np.uint16)
    for i, part in enumerate(parts):
        layout[sum(n[:i]) : sum(n[: i + 1])] = part
    with h5py.File(path, "w") as file:
        file.create_group("entry/data").create_virtual_dataset("data", layout)


def light(path: Path, links: Any) -> None:
    write_light(path, Header(n_frames=N, wavelength=0.5), SHAPE, links, sample="x", source={})


def rows(base: Path, *rows: tuple[str, str, str, str]) -> None:
    """Write the table: sample, scan, rotation and raw of each row."""
    lines = [f"{s}\t{n}\t\t\t{r}\t{raw}\t\t\n" for s, n, r, raw in rows]
    (base / "config/scans.tsv").write_text(HEAD + "".join(lines))


def two(base: Path, first: str, second: str, **import_scan: Any) -> list[str]:
    """Problems of two rotations of one scan, from loading and then from opening the files."""
    rows(base, ("hexa", "300K", "r1", first), ("hexa", "300K", "r2", second))
    return problems(base, **import_scan)


def problems(base: Path, opened: bool = True, **import_scan: Any) -> list[str]:
    try:
        experiment = config.load({"import_scan": import_scan}, base)
        if opened:
            config.require_own_frames(experiment)
    except HklflowError as error:
        return str(error).split("\n")[1:]
    return []


def loaded(base: Path, **import_scan: Any) -> list[str]:
    return problems(base, opened=False, **import_scan)


ALIASES: dict[str, Callable[[Path], None]] = {
    "symbolic link": lambda base: (base / "raw/c.nxs").symlink_to("a.nxs"),
    "hard link": lambda base: os.link(base / "raw/a.nxs", base / "raw/c.nxs"),
    "link to the folder": lambda base: (base / "raw/c.nxs").symlink_to("../x/a.nxs"),
}


@pytest.mark.parametrize("alias", ALIASES.values(), ids=ALIASES)
@pytest.mark.parametrize(
    "other", [("hexa", "300K", "r2"), ("hexa", "5K", "r1"), ("cube", "5", "r")]
)
def test_one_file_under_two_names(
    base: Path, alias: Callable[[Path], None], other: tuple[str, str, str]
) -> None:
    """In one scan, at another temperature, of another sample."""
    (base / "x").symlink_to("raw")
    alias(base)
    rows(base, ("hexa", "300K", "r1", "raw/a.nxs"), (*other, "raw/c.nxs"))
    (problem,) = loaded(base)
    table = base / "config/scans.tsv"
    assert problem.strip() == (
        f"{table}, row 2: raw raw/c.nxs has the same frames as raw raw/a.nxs of {table}, row 1: "
        "all frames would count twice; remove one row, or give each row frames of its own "
        "(`import_scan: leave_out`)"
    )


def test_other_spellings_of_a_path(base: Path) -> None:
    for spelling in ("./raw//a.nxs", "raw/../raw/a.nxs", str(base / "raw/a.nxs")):
        (problem,) = two(base, "raw/a.nxs", spelling)
        assert "row 1: all frames would count twice" in problem


def test_rows_of_one_file_with_frames_of_their_own(base: Path) -> None:
    """By rotation or by scan; the frame that both have is named."""
    assert two(base, "raw/a.nxs", "raw/a.nxs", leave_out=["r1:3-5", "r2:0-2"]) == []
    (problem,) = two(base, "raw/a.nxs", "raw/a.nxs", leave_out=["r1:4-5", "r2:0-2"])
    assert "is also used in" in problem
    assert "frames 3 would count twice" in problem
    rows(base, ("hexa", "300K", "r1", "raw/a.nxs"), ("hexa", "5K", "r1", "raw/a.nxs"))
    own = {"hexa/300K": {"import_scan": {"last_frame": 2}}}
    own["hexa/5K"] = {"import_scan": {"first_frame": 3}}
    config.load({"per_scan": own}, base)
    own["hexa/5K"] = {"import_scan": {"first_frame": 1, "last_frame": 3}}
    with pytest.raises(HklflowError, match="frames 1-2 would count twice"):
        config.load({"per_scan": own}, base)


def test_the_file_says_where_its_frames_end(base: Path) -> None:
    """Neither row has a last frame, and together they have them all, once."""
    assert two(base, "raw/a.nxs", "raw/a.nxs", leave_out=["r1:2-3", "r2:0-1", "r2:4-5"]) == []


def test_a_sum_of_one_scan_with_itself(base: Path) -> None:
    (base / "raw/c.nxs").symlink_to("a.nxs")
    rows(base, ("hexa", "300K", "r1", "raw/a.nxs + raw/c.nxs"))
    (problem,) = loaded(base)
    assert problem.endswith("list each scan of a sum once")


def test_images_of_two_patterns(base: Path) -> None:
    """The same pattern in other words, a part of the images, links in another folder."""
    assert SAME in two(base, "raw/s_####.cbf", "raw/s_%04d.cbf")[0]
    for i in range(10, 30):
        (base / f"raw/s_{i:04d}.cbf").write_bytes(b"%d" % i * 100)
    for i in range(6, 10):
        (base / f"raw/s_{i:04d}.cbf").write_bytes(b"%d" % i * 100)
    rows(base, ("hexa", "3", "r1", "raw/s_####.cbf"), ("hexa", "3", "r2", "raw/s_001*.cbf"))
    assert "frames 0-9 would count twice" in loaded(base)[0]
    rows(base, ("hexa", "3", "r1", "raw/s_001*.cbf"), ("hexa", "3", "r2", "raw/s_####.cbf"))
    assert "frames 10-19 would count twice" in loaded(base)[0]
    rows(base, ("hexa", "3", "r1", "raw/s_001*.cbf"), ("hexa", "3", "r2", "raw/s_002*.cbf"))
    assert loaded(base) == []
    (base / "linked").mkdir()
    for i in range(10):
        (base / f"linked/t_{i + 7}.cbf").symlink_to(f"../raw/s_{i + 20:04d}.cbf")
    rows(base, ("hexa", "3", "r1", "raw/s_####.cbf"), ("hexa", "3", "r2", "linked/t_#.cbf"))
    assert "frames 0-9 would count twice" in loaded(base)[0]
    used = {"leave_out": ["r1:20-29"]}
    assert loaded(base, **used) == []


def test_light_scan_files_that_link_the_same_frames(base: Path) -> None:
    data = "entry/data/data"
    light(base / "raw/x.scan.nxs", [("a.nxs", data)])
    light(base / "raw/y.scan.nxs", [("a.nxs", data)])
    light(base / "raw/z.scan.nxs", [("b.nxs", data)])
    rows(base, ("hexa", "3", "r1", "raw/x.scan.nxs"), ("hexa", "3", "r2", "raw/z.scan.nxs"))
    assert problems(base) == []
    for other in ("raw/y.scan.nxs", "raw/a.nxs"):
        rows(base, ("hexa", "3", "r1", "raw/x.scan.nxs"), ("hexa", "4", "r2", other))
        assert SAME in loaded(base)[0]
    light(base / "raw/u.scan.nxs", "s_####.cbf")
    rows(base, ("hexa", "3", "r1", "raw/u.scan.nxs"), ("hexa", "3", "r2", "raw/s_####.cbf"))
    assert SAME in loaded(base)[0]


def test_rotations_in_one_file_are_different(base: Path) -> None:
    with h5py.File(base / "raw/parent.nxs", "w") as file:
        for name in ("f1", "f2"):
            file[f"{name}/data"] = np.ones((N, *SHAPE), np.uint16)
    for name in ("f1", "f2"):
        light(base / f"raw/{name}.scan.nxs", [("parent.nxs", f"{name}/data")])
    assert two(base, "raw/f1.scan.nxs", "raw/f2.scan.nxs") == []


def test_masters_of_the_same_data_files(base: Path) -> None:
    """With other headers; the check opens them."""
    master(base / "raw/x_master.h5", "a.nxs", "b.nxs")
    master(base / "raw/y_master.h5", "b.nxs")
    rows(base, ("hexa", "3", "r1", "raw/x_master.h5"), ("cube", "4", "r1", "raw/y_master.h5"))
    assert loaded(base) == []
    (problem,) = problems(base)
    assert "raw/y_master.h5 has the same frames as raw raw/x_master.h5 of" in problem
    assert "row 1: frames 0-5 would count twice" in problem
    assert two(base, "raw/x_master.h5", "raw/y_master.h5", leave_out=["r1:6-11"]) == []


def test_virtual_datasets_of_the_same_frames(base: Path) -> None:
    virtual(base / "raw/even.nxs", np.s_[0::2])
    virtual(base / "raw/odd.nxs", np.s_[1::2])
    virtual(base / "raw/late.nxs", np.s_[3:5], np.s_[5:6])
    assert two(base, "raw/even.nxs", "raw/odd.nxs") == []
    (problem,) = two(base, "raw/odd.nxs", "raw/late.nxs")
    assert "frames 0, 2 would count twice" in problem
    assert "frames 3-5 would count twice" in two(base, "raw/late.nxs", "raw/a.nxs")[0]


def test_copies_are_found_by_the_check(base: Path) -> None:
    shutil.copytree(base / "raw", base / "copied")
    (base / "copied/a.nxs").rename(base / "copied/c.nxs")
    rows(base, ("hexa", "3", "r1", "raw/a.nxs"), ("hexa", "4", "r1", "copied/c.nxs"))
    assert loaded(base) == []
    (problem,) = problems(base)
    assert "(a copy, byte for byte): frames 0-5 would count twice" in problem
    assert two(base, "raw/a.nxs", "copied/c.nxs", leave_out=["r1:0-2", "r2:3-5"]) == []
    assert "(a copy, byte for byte)" in two(base, "raw/s_####.cbf", "copied/s_####.cbf")[0]
    master(base / "raw/x_master.h5", "b.nxs")
    master(base / "copied/y_master.h5", "b.nxs")
    assert "(a copy, byte for byte)" in two(base, "raw/x_master.h5", "copied/y_master.h5")[0]


def test_large_files_are_compared_in_places(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that differs in one of them is no copy; of a small one every byte counts."""
    shutil.copy(base / "raw/a.nxs", base / "raw/c.nxs")
    monkeypatch.setattr(identity, "_BLOCK", 1)
    monkeypatch.setattr(identity, "_WHOLE", 16)
    with (base / "raw/c.nxs").open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        byte = file.read(1)
        file.seek(-2, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    assert two(base, "raw/a.nxs", "raw/c.nxs") == []
    monkeypatch.setattr(identity, "LARGE", 0)
    assert "(a copy, byte for byte)" in two(base, "raw/a.nxs", "raw/c.nxs")[0]
    monkeypatch.setattr(identity, "_BLOCK", 65536)
    monkeypatch.setattr(identity, "_WHOLE", 2**20)
    assert two(base, "raw/a.nxs", "raw/c.nxs") == []


def test_a_damaged_file_is_the_matter_of_its_import(base: Path) -> None:
    (base / "raw/b.nxs").write_bytes(b"x" * 100)
    assert two(base, "raw/a.nxs", "raw/b.nxs") == []


def test_a_thousand_rows_cost_little(base: Path) -> None:
    names = [f"raw/{i}.nxs" for i in range(1000)]
    for name in names:
        (base / name).write_bytes(b"")
    rows(base, *(("hexa", f"s{i}", "r1", name) for i, name in enumerate(names)))
    experiment = config.load({}, base)
    found = {name: FrameFiles([(name, None)]) for name in names}
    start = time.process_time()
    assert list(shared_frames.shared_frames(experiment, found)) == []
    assert time.process_time() - start < 2


@pytest.mark.parametrize("raw", ["raw/a.nxs", "raw/s_####.cbf"])
def test_each_row_of_one_file_is_compared_once(
    base: Path, raw: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows that all have the same frames the first one is told, and no other is looked at."""
    compared: list[int] = []
    overlap = shared_frames._overlap

    def counted(*arguments: Any) -> Any:
        compared.append(1)
        return overlap(*arguments)

    may_share = shared_frames._may_share

    def looked_at(*arguments: Any) -> bool:
        compared.append(1)
        return may_share(*arguments)

    monkeypatch.setattr(shared_frames, "_overlap", counted)
    monkeypatch.setattr(shared_frames, "_may_share", looked_at)
    rows(base, *(("hexa", f"s{i}", "r1", raw) for i in range(50)))
    told = loaded(base)
    assert len(told) == 49
    assert all("row 1: " in line and "would count twice" in line for line in told)
    assert len(compared) == 2 * 49
