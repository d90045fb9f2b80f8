"""State ids: the same for what is the same setting, different for what is not."""

import hashlib
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import yaml

from hklflow.base.errors import HklflowError
from hklflow.calibration.states import PACKAGED, read_schema, state_of

SCHEMA = read_schema()
VALUES = {
    "detector": "Pilatus3 2M CdTe",
    "serial": "24-0111",
    "shape": [1679, 1475],
    "pixel_size": [172e-6, 172e-6],
    "material": "CdTe",
    "thickness": 1e-3,
    "distance": 0.650,
    "two_theta": 0,
    "stage": [0, 0.0031, -0.012],
    "energy": 52500,
    "binning": 1,
    "threshold": 26000,
}
CONSTANTS = {"gain_mode": "high", "integration_time": 1e-4, "memory_cells": 352}


def geometry(schema=SCHEMA, aliases=None, **changed):
    return state_of("geometry", {**VALUES, **changed}, schema, aliases or {})


def test_the_id_is_the_hash_of_whole_steps():
    """Written out by hand, so that no change of the code changes the ids of old stores."""
    keys = {
        "detector": {"value": "Pilatus3 2M CdTe"},
        "serial": {"value": "24-0111"},
        "shape": {"value": [1679, 1475]},
        "pixel_size": {"value": [0.000172, 0.000172]},
        "material": {"value": "CdTe"},
        "thickness": {"value": 0.001},
        "distance": {"step": 0.001, "steps": 650},
        "two_theta": {"step": 0.01, "steps": 0},
        "stage": {"step": 5e-05, "steps": [0, 62, -240]},
        "energy": {"step": 1.0, "steps": 52500},
        "binning": {"value": 1},
        "threshold": {"step": 10.0, "steps": 2600},
    }
    text = json.dumps({"schema": 1, "kind": "geometry", "keys": keys}, sort_keys=True)
    plain = text.replace(", ", ",").replace(": ", ":")
    found = geometry()
    assert found.id == hashlib.sha256(plain.encode()).hexdigest()[:16]
    assert found.steps == {name: key["steps"] for name, key in keys.items() if "steps" in key}
    assert found.values["distance"] == 0.65
    assert found.schema == 1
    assert found.warnings == ()


def test_the_order_of_the_keys_does_not_matter():
    names = list(VALUES)
    for seed in range(20):
        random.Random(seed).shuffle(names)
        assert state_of("geometry", {n: VALUES[n] for n in names}, SCHEMA).id == geometry().id


def test_another_process_finds_the_same_id():
    """Not so if anything depended on the hashes of Python's own."""
    code = (
        "import json, sys; from hklflow.calibration.states import *;"
        "print(state_of('geometry', json.loads(sys.argv[1]), read_schema()).id)"
    )
    command = [sys.executable, "-c", code, json.dumps(VALUES)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == geometry().id


def test_encoder_noise_does_not_change_the_id():
    """20 µm of the distance, 0.05 eV, 4 µm of the stage, 1 mdeg: a fifth of a step or less."""
    rng = np.random.default_rng(3)
    ids, warned = set(), 0
    for _ in range(2000):
        found = geometry(
            distance=0.650 + 20e-6 * np.clip(rng.normal(), -5, 5),
            energy=52500 + 0.05 * np.clip(rng.normal(), -5, 5),
            two_theta=0.001 * np.clip(rng.normal(), -3, 3),
            stage=[x + 4e-6 * np.clip(rng.normal(), -3, 3) for x in (0, 0.0031, -0.012)],
        )
        ids.add(found.id)
        warned += bool(found.warnings)
    assert ids == {geometry().id}
    assert warned == 0


@pytest.mark.parametrize(
    ("offset", "warns"),
    [(0.0, False), (0.39, False), (0.41, True), (0.48, True), (0.52, True), (0.59, True),
     (0.61, False), (-0.41, True), (-0.39, False)],
)  # fmt: skip
def test_values_within_a_tenth_of_a_step_of_an_edge_are_told(offset, warns):
    found = geometry(distance=0.650 + 0.001 * offset)
    assert bool(found.warnings) == warns


def test_the_warning_names_the_other_state_which_can_be_an_alias():
    here, beyond = geometry(distance=0.65048), geometry(distance=0.65052)
    assert here.id != beyond.id
    assert beyond.id in here.warnings[0]
    assert "0.6505 m" in here.warnings[0]
    assert "distance" in here.warnings[0]
    aliased = geometry(aliases={here.id: beyond.id}, distance=0.65048)
    assert (aliased.id, aliased.alias_of, aliased.warnings) == (beyond.id, here.id, ())
    other = geometry(distance=0.655)
    assert geometry(aliases={here.id: beyond.id}, distance=0.655) == other


def test_the_warning_finds_the_element_of_a_list():
    found = geometry(stage=[0, 2.4e-5, 0])
    assert geometry(stage=[0, 2.6e-5, 0]).id in found.warnings[0]


@pytest.mark.parametrize(
    ("aliases", "told"),
    [
        ({"0" * 16: "1" * 16, "1" * 16: "2" * 16}, "itself an alias"),
        ({"beamline": "1" * 16}, "not a state id"),
        ({"0" * 16: 1234567812345678}, "not a state id"),
    ],
)
def test_aliases_that_cannot_be_are_refused(aliases, told):
    with pytest.raises(HklflowError, match=told):
        geometry(aliases=aliases)


@pytest.mark.parametrize(
    ("name", "value"),
    [("serial", "24-0112"), ("distance", 0.652), ("energy", 52502), ("two_theta", 0.02),
     ("stage", [0, 0.0032, -0.012]), ("binning", 2), ("threshold", 26020), ("material", "Si"),
     ("thickness", 0.75e-3), ("shape", [1475, 1679]), ("gain_mode", "low"),
     ("roi", [0, 100, 0, 200])],
)  # fmt: skip
def test_another_setting_is_another_state(name, value):
    assert geometry(**{name: value}).id != geometry().id


def test_all_problems_are_told_together():
    values = {k: v for k, v in VALUES.items() if k not in ("serial", "energy")}
    values |= {"distence": 0.65, "shape": [1679], "binning": 1.5, "thickness": "thin"}
    with pytest.raises(HklflowError) as told:
        state_of("geometry", values, SCHEMA)
    text = str(told.value)
    for word in ("serial", "energy", "in eV", "distence", "list of 2", "whole number", "thickness"):
        assert word in text
    assert "\n" not in text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), True, None, [0.65], "650 mm"])
def test_what_is_no_number_is_none(value):
    with pytest.raises(HklflowError, match="distance"):
        geometry(distance=value)


def test_numbers_that_yaml_takes_for_texts_are_numbers():
    read = yaml.safe_load("{thickness: 1e-3, pixel_size: [172e-6, 172e-6]}")
    assert isinstance(read["thickness"], str)
    assert geometry(**read).id == geometry().id


def test_each_kind_has_its_own_keys():
    """A flat field does not depend on the distance; a counter's constants do on the threshold."""
    values = VALUES | CONSTANTS

    def ids(**changed):
        given = values | changed
        return {kind: state_of(kind, given, SCHEMA).id for kind in SCHEMA.kinds}

    def changed(**keys):
        return {kind for kind, found in ids(**keys).items() if found != ids()[kind]}

    assert len(set(ids().values())) == len(SCHEMA.kinds) == 4
    assert changed(serial="25") == set(SCHEMA.kinds)
    assert changed(distance=0.7) == {"geometry", "normalization"}
    assert changed(energy=60000) == changed(threshold=30000) == set(SCHEMA.kinds)
    assert changed(memory_cells=64) == changed(integration_time=2e-4) == {"constants"}
    assert changed(gain_mode="low") == set(SCHEMA.kinds)


def test_keys_that_only_another_kind_needs_may_be_missing():
    few = {"detector", "serial", "shape", "binning"}
    given = {name: VALUES[name] for name in few} | CONSTANTS
    state_of("constants", given, SCHEMA)
    state_of("constants", VALUES, SCHEMA)  # of a photon counter
    with pytest.raises(HklflowError, match="missing serial"):
        state_of("constants", {"detector": "agipd"}, SCHEMA)
    with pytest.raises(HklflowError, match="unknown; use constants"):
        state_of("gain", given, SCHEMA)


def test_ids_of_constants_by_hand():
    """Of an integrating detector that states no energy, as old stores have it; and of a counter."""
    few = {name: VALUES[name] for name in ("detector", "serial", "shape", "binning")}
    for given, steps in (
        (few | CONSTANTS, {}),
        (
            few,
            {"energy": {"step": 1.0, "steps": 52500}, "threshold": {"step": 10.0, "steps": 2600}},
        ),
    ):
        keys = {name: {"value": value} for name, value in given.items()} | steps
        canonical = {"schema": 1, "kind": "constants", "keys": keys}
        plain = json.dumps(canonical, sort_keys=True, separators=(",", ":"))
        found = state_of("constants", given | {name: VALUES[name] for name in steps}, SCHEMA)
        assert found.id == hashlib.sha256(plain.encode()).hexdigest()[:16]


def test_the_schema_can_be_another(tmp_path):
    """Its number is part of the id: a step that changes makes other states."""
    data = json.loads(PACKAGED.read_text())
    own = tmp_path / "schema.json"
    own.write_text(json.dumps(data))
    assert geometry(schema=read_schema(own)).id == geometry().id
    own.write_text(json.dumps(data | {"schema": 2}))
    assert geometry(schema=read_schema(own)).id != geometry().id
    data["keys"]["distance"]["step"] = 0.002
    own.write_text(json.dumps(data))
    coarse = geometry(schema=read_schema(own))
    assert coarse.steps["distance"] == 325
    assert coarse.id != geometry().id


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"step": -1}, "greater than 0"),
        ({"required": ["constants"]}, "not in its `kinds`"),
        ({"type": "text"}, "no steps"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_malformed_schema_is_refused(tmp_path, change, told):
    data = json.loads(PACKAGED.read_text())
    data["keys"]["distance"] |= change
    own = tmp_path / "schema.json"
    own.write_text(json.dumps(data))
    with pytest.raises(HklflowError, match=told):
        read_schema(own)
    with pytest.raises(HklflowError, match="cannot be read"):
        read_schema(tmp_path / "none.json")
