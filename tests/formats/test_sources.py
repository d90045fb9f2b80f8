"""Files behind raw files: through links of links, virtual datasets, bytes in files of their own."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from hklflow.formats.sources import files_of, linked_files, sources

COUNTS = np.arange(24, dtype="u4").reshape(2, 3, 4)


def write(path: Path, **content: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file[f"entry/data/{name}"] = value
    return path


def virtual(path: Path, *parts: str) -> Path:
    layout = h5py.VirtualLayout((2 * len(parts), 3, 4), "u4")
    for i, part in enumerate(parts):
        layout[2 * i : 2 * i + 2] = h5py.VirtualSource(part, "entry/data/data", (2, 3, 4))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("entry/data/data", layout)
    return path


def test_links_of_links(tmp_path: Path) -> None:
    real = write(tmp_path / "deep/real.h5", data=COUNTS)
    middle = write(
        tmp_path / "middle.h5", data=h5py.ExternalLink("deep/real.h5", "/entry/data/data")
    )
    head = write(tmp_path / "head.h5", wavelength=1.0)
    master = write(
        tmp_path / "master.h5",
        data_000001=h5py.ExternalLink("middle.h5", "/entry/data/data"),
        wavelength=h5py.ExternalLink("head.h5", "/entry/data/wavelength"),
        missing=h5py.ExternalLink("not_there.h5", "/entry"),
        soft=h5py.SoftLink("/entry"),
        self=h5py.ExternalLink("master.h5", "/entry"),
    )
    assert set(linked_files(master)) == {middle, real, head}
    assert sources([master], []) == {str(path): [path] for path in linked_files(master)}


def test_virtual_datasets_of_virtual_datasets(tmp_path: Path) -> None:
    parts = [write(tmp_path / f"part{i}.h5", data=COUNTS) for i in range(2)]
    middle = virtual(tmp_path / "middle.h5", "part0.h5")
    master = virtual(tmp_path / "master.h5", "middle.h5", "part1.h5", "gone.h5")
    assert set(linked_files(master)) == {middle, *parts}


def test_bytes_in_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("raw.bin").write_bytes(COUNTS.tobytes())
    with h5py.File("master.h5", "w") as file:
        file.create_dataset("d", COUNTS.shape, "u4", external=[("raw.bin", 0, COUNTS.nbytes)])
    assert linked_files(Path("master.h5")) == [Path("raw.bin")]


def test_groups_in_a_circle_and_damaged_files(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["entry/loop"] = file["/"]
        file["entry/other"] = h5py.ExternalLink("b.h5", "/")
    (tmp_path / "b.h5").write_bytes(b"no HDF5")
    assert linked_files(tmp_path / "a.h5") == [tmp_path / "b.h5"]
    assert linked_files(tmp_path / "b.h5") == []


def test_files_of_a_record(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        (tmp_path / f"s_{number:02d}.cbf").touch()
    found = [f"{tmp_path}/s_{number:02d}.cbf" for number in (1, 2, 10)]
    assert files_of("s_##.cbf", tmp_path) == found
    assert files_of(f"{tmp_path}/s_##.cbf", Path("elsewhere")) == found
    assert files_of("t_##.cbf", tmp_path) == []
    assert files_of("a.h5", tmp_path) == [f"{tmp_path}/a.h5"]
    assert files_of("mask_1.json", tmp_path) == [f"{tmp_path}/mask_1.json"]
