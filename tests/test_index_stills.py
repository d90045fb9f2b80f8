"""A batch of still frames that cannot be read is written down, and the other batches are not."""

import json
from pathlib import Path

import h5py
import pytest

from hklflow.dials import programs
from hklflow.nexus.stills import read_stills
from hklflow.stages import index_stills
from tests.truth import stills
from tests.truth.stills import World

WORLD = World()
CELL = (*WORLD.cell, 90.0, 90.0, 90.0)


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """Four frames; the last one is damaged."""
    path = tmp_path / "stills.nxs"
    stills.write(path, WORLD, [stills.frame(WORLD, n, crystal=False) for n in range(4)])
    with h5py.File(path) as file:
        found = file["entry/data/data"].id.get_chunk_info_by_coord((3, 0, 0))
    with path.open("r+b") as raw:
        raw.seek(found.byte_offset)
        raw.write(b"\xff" * found.size)
    return path


def parameters(batch: int) -> index_stills.Params:
    return index_stills.Params(cell=CELL, space_group="P m m m", batches=2, batch=batch)


def test_damaged_frames_are_those_of_their_batch(
    tmp_path: Path, spoilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # DIALS does not run: the frames fail before.
    monkeypatch.setattr(
        programs, "find", lambda prefix: programs.Dials(None, (3, 12), "DIALS 3.12", {})
    )
    outputs = index_stills.Outputs(indexed=tmp_path / "a.nxs", metrics=tmp_path / "a.json")
    inputs = index_stills.Inputs(raw=[spoilt])
    index_stills.main(inputs=inputs, outputs=outputs, params=parameters(1))
    found, rejected = read_stills(outputs.indexed)
    assert len(found.frames) == 0
    assert sorted(rejected) == [2, 3]
    (failure,) = json.loads(outputs.metrics.read_text())["failures"]
    assert failure.startswith("batch 1: ")
    assert str(spoilt) in failure


def test_the_other_batch_has_its_gaps(spoilt: Path) -> None:
    setup = index_stills._setup(str(spoilt), None, parameters(0))
    assert (setup.first, setup.last) == (0, 2)
    assert not setup.bad.any()
    assert (index_stills._with_gaps(setup, str(spoilt)).bad == WORLD.gaps()).all()
