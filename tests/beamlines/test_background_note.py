"""Runs without the crystal that an importer skips: the text to paste is a valid configuration."""

import yaml

from hklflow.beamlines.tree import background_note
from hklflow.stages.background import Settings


def test_the_text_to_paste_names_each_run() -> None:
    (note,) = background_note(
        [("air-1", "raw/air-1_####.cbf"), ("PMN_empty", "/d/PMN_empty.nxs"), ("dark", "d.nxs")]
    )
    pasted = yaml.safe_load(note.split("`")[1])
    runs = Settings.model_validate(pasted["background"]).runs
    assert {name: run.raw for name, run in runs.items() if run} == {
        "air_1": "raw/air-1_####.cbf",
        "PMN_empty": "/d/PMN_empty.nxs",
    }


def test_a_calibrant_is_no_background() -> None:
    assert background_note([("ceo2", "ceo2.tif"), ("dark", "dark.nxs"), ("hair", "h.nxs")]) == []
