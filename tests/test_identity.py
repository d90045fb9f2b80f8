"""Whether files are as they were: by how they stand, by their content, by samples of it."""

import os
import shutil
from pathlib import Path

import pytest

from hklflow.base import identity
from hklflow.base.errors import HklflowError
from hklflow.base.identity import Entry, Likeness

SMALL, LARGE = 1000, 3 * 2**20


def write(path: Path, size: int = SMALL, seed: int = 0) -> Path:
    path.write_bytes(bytes((i * 7 + seed) % 251 for i in range(251)) * (size // 251))
    return path


def compare(entry: Entry, *files: Path, full: bool = False) -> Likeness:
    return identity.compare(entry, files, identity.standing(files), full=full)


def edit(path: Path, at: int) -> None:
    """Change one byte in its place, and put the time back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_what_is_not_touched_is_the_same(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "a", size)
    entry = identity.identify("a", [path])
    assert compare(entry, path) is Likeness.SAME
    path.read_bytes()
    assert compare(entry, path) is Likeness.SAME
    assert compare(entry, path, full=True) is Likeness.SAME


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("act", ["touch", "chmod", "link", "rename"])
def test_changes_that_leave_the_content_are_none(tmp_path: Path, act: str, size: int) -> None:
    path = write(tmp_path / "a", size)
    entry = identity.identify("a", [path])
    if act == "touch":
        os.utime(path, (1e9, 1e9))
    elif act == "chmod":
        path.chmod(0o600)
    elif act == "link":
        (tmp_path / "b").hardlink_to(path)
    else:
        path = path.rename(tmp_path / "b")
    assert compare(entry, path) is Likeness.SAME


@pytest.mark.parametrize("at", [0, LARGE // 2 + 1, 40_000 + 2**16, LARGE // 251 * 251 - 1])
def test_a_byte_changed_in_its_place_is_found(tmp_path: Path, at: int) -> None:
    """Wherever it is, though size and time are as they were."""
    path = write(tmp_path / "a", LARGE)
    entry = identity.identify("a", [path])
    edit(path, at)
    assert compare(entry, path) is Likeness.CHANGED


def test_copies(tmp_path: Path) -> None:
    path = write(tmp_path / "a", LARGE)
    entry = identity.identify("a", [path])
    # With its time: samples are enough, and are called so.
    kept = Path(shutil.copy2(path, tmp_path / "kept"))
    assert compare(entry, kept) is Likeness.SAMPLED
    assert compare(entry, kept, full=True) is Likeness.SAME
    edit(kept, 40_000 + 2**16)  # between the samples
    assert compare(entry, kept) is Likeness.SAMPLED
    assert compare(entry, kept, full=True) is Likeness.CHANGED
    edit(kept, LARGE // 251 * 251 - 1)
    assert compare(entry, kept) is Likeness.CHANGED
    # With another time: it may be anything, and is read as a whole.
    other = Path(shutil.copyfile(path, tmp_path / "other"))
    os.utime(other, (1e9, 1e9))
    assert compare(entry, other) is Likeness.SAME
    edit(other, 40_000 + 2**16)
    assert compare(entry, other) is Likeness.CHANGED
    # A small one is read as a whole in any case.
    small = write(tmp_path / "small")
    entry = identity.identify("small", [small])
    assert compare(entry, Path(shutil.copy2(small, tmp_path / "copy"))) is Likeness.SAME


def test_a_large_product_is_sampled(tmp_path: Path) -> None:
    path = write(tmp_path / "a", LARGE)
    entry = identity.identify("a", [path], product=True)
    assert entry["sha256"].startswith("sampled:")
    path.chmod(0o600)
    assert compare(entry, path) is Likeness.SAMPLED
    edit(path, 0)
    assert compare(entry, path) is Likeness.CHANGED


def test_series(tmp_path: Path) -> None:
    files = [write(tmp_path / f"s_{n:02d}.cbf", seed=n) for n in range(40)]
    entry = identity.identify("s_##.cbf", files)
    assert entry["files"] == 40
    assert compare(entry, *files) is Likeness.SAME
    assert compare(entry, *files[:-1]) is Likeness.CHANGED
    edit(files[21], 500)
    assert compare(entry, *files) is Likeness.CHANGED
    edit(files[21], 500)
    assert compare(entry, *files) is Likeness.SAME
    # Two of them exchanged.
    files[3].rename(tmp_path / "t")
    files[4].rename(files[3])
    (tmp_path / "t").rename(files[4])
    assert compare(entry, *files) is Likeness.CHANGED


def test_gone_and_early_records(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    entry = identity.identify("a", [path])
    early = {"path": "a", "sha256": "ends:00"}
    assert compare(early, path) is Likeness.CHANGED
    assert compare({"path": "a", "sha256": entry["sha256"]}, path) is Likeness.SAME
    path.unlink()
    assert compare(entry, path) is Likeness.GONE


def test_a_file_that_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a")
    whole = identity.whole

    def slow(files: list[Path]) -> str:
        found = whole(files)
        edit(files[0], 3)
        return found

    monkeypatch.setattr(identity, "whole", slow)
    with pytest.raises(HklflowError, match="changed while it was read"):
        identity.identify("a", [path])
