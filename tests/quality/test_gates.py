"""Each gate trips on the figure that it is about, and only then."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from hklflow.orientation.limits import Limits
from hklflow.page.gates import table as table_of_gates
from hklflow.quality import unindexed_words
from hklflow.quality.agreement_gates import AgreementLimits, of_rotations
from hklflow.quality.gates import doubtful, failures, hints, own_absences, vector_text
from hklflow.quality.verdict import doubts
from hklflow.stage.scan_limits import ScanLimits

IDENTITY = {
    "sample": "perov",
    "scan": "150K",
    "temperature": 150.0,
    "parent": "300K",
    "parent_temperature": 300.0,
    "space_group": "P 4/m m m",
}


def figures(**changes: Any) -> dict[str, Any]:
    good = {
        "space group": "P 4/m m m",
        "crystal system": "tetragonal",
        "peaks": 400,
        "fraction unindexed": 0.05,
        "offsets": [],
        "absent reflections": {"number": 0, "of": 400, "fraction": 0.0, "strongest": []},
        "cell": [3.99, 3.99, 4.05, 90.0, 90.0, 90.0],
        "cell_sigma": [2e-4, 2e-4, 3e-4, 0.0, 0.0, 0.0],
        "volume": 64.5,
        "volume_sigma": 0.01,
        "relations": [relation()],
        "subgroups": [],
    }
    return good | changes


def relation(**changes: Any) -> dict[str, Any]:
    return {
        "relation": "a = b",
        "deviation": 1e-4,
        "sigma": 2e-4,
        "unit": "A",
        "z": 0.5,
        "relative": 2.5e-5,
        **changes,
    }


ORTHORHOMBIC = [
    {"space_group": "P m m m", "cell": [3.98, 4.0123, 4.05, 90.0, 90.0, 90.0]},
    {"space_group": "P 2/m 1 1", "cell": [3.98, 4.0123, 4.05, 90.0, 90.0, 90.0]},
]


def judge(changes: dict[str, Any], limits: Limits | None = None, **identity: Any) -> list[str]:
    return failures(
        figures(**changes), figures(), limits or ScanLimits().limits(), IDENTITY | identity
    )


def test_numbers_of_two_rotations_have_their_names() -> None:
    """r2 differs most, but its counts are few: χ² is largest for r3."""
    limits = AgreementLimits(2.0, 0.03, 0.2)
    shares = {"factor": 1.0, "factor explains": 0.0, "smooth explains": 0.0, "z": 20.0}
    rows = [
        {"rotation": name, "difference": size, "reduced chi2": chi2, **shares}
        for name, size, chi2 in (("r1", 0.01, 1.1), ("r2", 0.08, 1.3), ("r3", 0.04, 2.5))
    ]
    (text,) = of_rotations(rows, limits).doubts
    assert "r2 differs from the others by 8.0% of S" in text
    assert "reduced chi2 2.50 of r3 (limit 2)" in text
    (text,) = of_rotations(rows[:2], limits).doubts
    assert "reduced chi2 1.30 (limit 2)" in text


def test_a_crystal_like_its_parents_passes() -> None:
    assert judge({}) == []


def unindexed(fraction: float) -> dict[str, Any]:
    left = {"sentence": "r1: ice", "fraction": fraction, "error": 0.0, "named": True}
    return {"unindexed": [left]}


def absent(fraction: float) -> dict[str, Any]:
    counts = {"number": round(400 * fraction), "of": 400, "fraction": fraction}
    return {"absent reflections": counts | {"strongest": [[0, 0, 1]]}}


def expanded(relative: float) -> dict[str, Any]:
    """An axis that changes by a multiple of what the step of 150 K allows."""
    limits = ScanLimits().limits()
    size = 1 + relative * (150 * limits.max_expansion + limits.min_jump)
    return {"cell": [3.99, 3.99, 4.05 * size, 90.0, 90.0, 90.0]}


OF_GATES = {
    "Rise of peaks not indexed": lambda x: {
        "fraction unindexed": 0.05 + x * ScanLimits().limits().max_unindexed_rise
    },
    "Rise of forbidden peaks": lambda x: absent(x * ScanLimits().limits().max_absent),
    "Relations of the cell": lambda x: {
        "relations": [relation(z=62.0, relative=x * ScanLimits().limits().min_strain)]
    },
    "Change of the cell": expanded,
    "Motion (pixel, frame)": lambda x: {
        "motions": [motion(x * ScanLimits().limits().max_shift, 0.0)], "lost": []
    },
    "Peaks not indexed": lambda x: unindexed(x * ScanLimits().limits().max_unindexed),
    "Second crystal": lambda x: {
        "other crystals": [
            {"sentence": "a twin", "share": x * ScanLimits().limits().max_crystal}
        ]
    },
}  # fmt: skip
"""Figures of each gate, x times its limit."""


@pytest.mark.parametrize("gate", OF_GATES)
def test_each_gate_fails_on_its_own_case_only(gate: str) -> None:
    """A fifth below its limit all gates pass; a fifth beyond it this gate fails and no other."""
    for factor, missed in ((0.8, []), (1.25, [gate])):
        accepted = IDENTITY | {
            "limits": vars(ScanLimits().limits()),
            "figures": figures(**OF_GATES[gate](factor)),
            "parent_figures": figures(),
        }
        found = table_of_gates(accepted)
        assert {one.name for one in found} == OF_GATES.keys(), "a gate without a case"
        assert [one.name for one in found if not one.passed] == missed
        assert bool(judge(OF_GATES[gate](factor))) == bool(missed)


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ("Peaks not indexed", "r1: ice (peaks not indexed, limit 50 %)"),
        ("Second crystal", "a twin (a share of 12 %, limit 10 %)"),
        (
            "Motion (pixel, frame)",
            "(spots are displaced by 0.6 pixels and 0 frames, limit 0.5 pixels or frames)",
        ),
    ],
)
def test_a_limit_has_the_unit_of_its_value(gate: str, words: str) -> None:
    (sentence,) = judge(OF_GATES[gate](1.2))
    assert sentence.endswith(words)


def test_a_broken_relation_is_told_with_temperature_number_limit_and_proposal() -> None:
    broken = relation(deviation=0.0124, sigma=2e-4, z=62.0, relative=0.0031)
    sentences = judge({"relations": [broken], "subgroups": ORTHORHOMBIC})
    assert sentences == [
        "perov 150K at 150 K: the tetragonal relation a = b of the parent 300K (P 4/m m m) is "
        "broken by 0.31% (62 sigma; limits 0.02% and 5 sigma)",
        "make 150K a parent, also of the scans below 150 K, e.g. space group "
        "P m m m (or P 2/m 1 1), cell 3.98 4.0123 4.05 90 90 90: in scans.tsv put `150K` in the "
        "column `parent`, and in config.yaml `per_scan: {perov/150K: {refine_parent: "
        "{space_group: P m m m, cell: [3.98, 4.0123, 4.05, 90, 90, 90]}}}`",
    ]


def test_a_parent_is_not_told_to_become_a_parent() -> None:
    broken = relation(deviation=0.0124, sigma=2e-4, z=62.0, relative=0.0031)
    changes = {"relations": [broken], "subgroups": ORTHORHOMBIC}
    *_, remedy = judge(changes, parent="150K", parent_temperature=150.0)
    assert remedy == (
        "150K is a parent: correct its lattice, e.g. space group P m m m (or P 2/m 1 1), cell "
        "3.98 4.0123 4.05 90 90 90: in config.yaml `per_scan: {perov/150K: {refine_parent: "
        "{space_group: P m m m, cell: [3.98, 4.0123, 4.05, 90, 90, 90]}}}`"
    )


@pytest.mark.parametrize(
    ("z", "relative", "n"), [(62.0, 1.9e-4, 0), (4.9, 0.0031, 0), (5.1, 2.1e-4, 2)]
)
def test_a_relation_must_be_broken_significantly_and_visibly(
    z: float, relative: float, n: int
) -> None:
    assert len(judge({"relations": [relation(z=z, relative=relative)]})) == n


@pytest.mark.parametrize(("fraction", "n"), [(0.19, 0), (0.21, 2)])
def test_unindexed_peaks(fraction: float, n: int) -> None:
    sentences = judge({"fraction unindexed": fraction})
    assert len(sentences) == n
    if n:
        assert "perov 150K at 150 K: 21.0% of the peaks are not indexed" in sentences[0]
        assert "compared with 5.0%" in sentences[0]
        assert "limit 15.0%" in sentences[0]


def test_a_superlattice_is_proposed_by_its_vector() -> None:
    offset = {
        "vector": [1 / 3, 1 / 3, 0.0],
        "arms": 2,
        "peaks": 90,
        "expected by chance": 0.31,
        "multiples": [3, 3, 1],
        "space_group": "P 6/m m m",
    }
    sentences = judge({"fraction unindexed": 0.4, "offsets": [offset]})
    assert "90 of them lie at (1/3, 1/3, 0) from reflections (0.31 expected" in sentences[0]
    assert (
        "propagation vector (1/3, 1/3, 0), in the parent's cell multiplied 3 x 3 x 1"
        in (sentences[1])
    )
    assert "{space_group: P 6/m m m, cell: [11.97, 11.97, 4.05, 90, 90, 90]}" in sentences[1]


DOUBLED = {
    "vector": [0.5, 0.0, 0.0],
    "arms": 2,
    "peaks": 90,
    "expected by chance": 0.31,
    "multiples": [2, 2, 1],
    "space_group": "P 4/m m m",
}


@pytest.mark.parametrize("fraction", [0.4, 0.1])
def test_a_superlattice_of_a_broken_cell_is_proposed_as_one_lattice(fraction: float) -> None:
    broken = relation(deviation=0.0124, sigma=2e-4, z=62.0, relative=0.0031)
    larger = {
        "space_group": "P m m m",
        "cell": [7.96, 4.0123, 4.05, 90.0, 90.0, 90.0],
        "others": [],
        "volume": 2,
    }
    changes = {
        "fraction unindexed": fraction,
        "relations": [broken],
        "subgroups": ORTHORHOMBIC,
        "offsets": [DOUBLED],
        "superlattice": larger,
    }
    remedy = judge(changes)[-1]
    assert "propagation vector (1/2, 0, 0), in 2 times the parent's primitive cell" in remedy
    assert "{space_group: P m m m, cell: [7.96, 4.0123, 4.05, 90, 90, 90]}" in remedy


MODULATED = {
    "vector": [0.0, 0.0, 0.28761],
    "sigma": [0.0, 0.0, 0.00042],
    "arms": 2,
    "peaks": 120,
    "expected by chance": 0.31,
}


def test_incommensurate_satellites_keep_the_parents_cell() -> None:
    changes = {
        "fraction unindexed": 0.4,
        "unindexed peaks": 160,
        "incommensurate": [MODULATED],
    }
    told, remedy = judge(changes)
    assert "120 of them lie at (0, 0, 0.2876(4)) from reflections" in told
    assert "refine_parent" not in remedy
    assert "`per_scan: {perov/150K: {accept: {max_unindexed_rise: 0.40}}}`" in remedy
    # Most of the new peaks are something else.
    assert "accept:" not in judge(changes | {"unindexed peaks": 300})[-1]
    # A twin has peaks at such places too.
    twin = {"sentence": "a twin", "share": 0.05}
    assert "incommensurate" not in " ".join(judge(changes | {"other crystals": [twin]}))


def test_with_a_broken_cell_the_main_reflections_are_the_new_parents() -> None:
    broken = relation(deviation=0.0124, sigma=2e-4, z=62.0, relative=0.0031)
    changes = {
        "fraction unindexed": 0.4,
        "unindexed peaks": 160,
        "incommensurate": [MODULATED],
        "relations": [broken],
        "subgroups": ORTHORHOMBIC,
    }
    remedy = judge(changes)[-1]
    assert "copy results/perov/150K/orientation.json to 150K_start.json" in remedy
    assert (
        "{refine_parent: {space_group: P m m m, cell: [3.98, 4.0123, 4.05, 90, 90, 90], "
        "min_indexed: 0.36, hkl_tolerance: 0.17}, orientation: {start: 150K_start.json}}" in remedy
    )


@pytest.mark.parametrize(("number", "of", "n"), [(2, 50, 0), (3, 50, 2), (3, 400, 0)])
def test_absent_reflections(number: int, of: int, n: int) -> None:
    absent = {"number": number, "of": of, "fraction": number / of, "strongest": [[1, 0, 0]]}
    sentences = judge({"absent reflections": absent})
    assert len(sentences) == n
    if n:
        assert "3 of 50 indexed peaks (6.0%)" in sentences[0]
        assert sentences[0].endswith("strongest (1 0 0)")


@pytest.mark.parametrize(
    # 1e-4/K × 150 K + 1e-4 + 5 × √2 × 2e-4 / 3.99 = 0.015454 in ln a
    ("factor", "n"),
    [(1.01540, 0), (1.01570, 2), (1 / 1.01540, 0), (1 / 1.01570, 2)],
)
def test_a_jump_of_an_axis_beyond_expansion_and_error(factor: float, n: int) -> None:
    a = 3.99 * factor
    sentences = judge({"cell": [a, a, 4.05, 90.0, 90.0, 90.0], "cell_sigma": [2e-4 * factor] * 3})
    assert len(sentences) == n
    if n:
        # b is a: said once.
        assert sentences[0].startswith("perov 150K at 150 K: a differs by ")
        assert "over 150 K" in sentences[0]
        assert "space_group: P 4/m m m" in sentences[1]


def test_at_equal_temperature_only_the_rest_is_allowed() -> None:
    longer = [3.99 * 1.001, 3.99 * 1.001, 4.05, 90.0, 90.0, 90.0]
    assert judge({"cell": longer}) == []
    assert judge({"cell": longer}, temperature=300.0)


@pytest.mark.parametrize("unknown", ["temperature", "parent_temperature"])
def test_without_a_temperature_no_size_is_a_jump_but_a_broken_relation_is_told(
    unknown: str,
) -> None:
    longer = [3.99 * 1.01, 3.99 * 1.01, 4.05, 90.0, 90.0, 90.0]
    assert judge({"cell": longer}, **{unknown: None}) == []
    broken = relation(deviation=0.0124, sigma=2e-4, z=62.0, relative=0.0031)
    told = judge({"cell": longer, "relations": [broken]}, temperature=None)
    assert told[0].startswith("perov 150K: the tetragonal relation a = b")


def test_a_weak_superlattice_is_hinted_at_unless_the_parent_has_it() -> None:
    offset = {
        "vector": [0.5, 0.5, 0.0],
        "arms": 1,
        "peaks": 20,
        "expected by chance": 0.1,
        "multiples": [2, 2, 1],
        "space_group": "P 4/m m m",
    }
    weak = figures(**{"fraction unindexed": 0.1, "offsets": [offset]})
    assert failures(weak, figures(), ScanLimits().limits(), IDENTITY) == []
    (told,) = hints(weak, figures(), ScanLimits().limits(), IDENTITY)
    assert told.startswith("150K: 20 peaks that are not indexed lie at (1/2, 1/2, 0)")
    assert hints(weak, figures(offsets=[offset]), ScanLimits().limits(), IDENTITY) == []
    modulated = figures(**{"fraction unindexed": 0.1, "incommensurate": [MODULATED]})
    (told,) = hints(modulated, figures(), ScanLimits().limits(), IDENTITY)
    assert "(0, 0, 0.2876(4))" in told
    moved = MODULATED | {"vector": [0.0, 0.0, 0.29]}  # the modulation follows the temperature
    assert hints(modulated, figures(incommensurate=[moved]), ScanLimits().limits(), IDENTITY) == []
    # Told by the gate already.
    strong = weak | {"fraction unindexed": 0.3}
    assert hints(strong, figures(), ScanLimits().limits(), IDENTITY) == []


@pytest.mark.parametrize(("number", "of", "n"), [(2, 50, 0), (3, 50, 1), (3, 400, 0)])
def test_a_parents_own_violated_absences_are_told(number: int, of: int, n: int) -> None:
    absent = {"number": number, "of": of, "fraction": number / of, "strongest": [[1, 0, -1]]}
    own = figures(**{"absent reflections": absent})
    told = own_absences(own, ScanLimits().limits(), IDENTITY | {"scan": "300K"})
    assert len(told) == n
    assert failures(own, own, ScanLimits().limits(), IDENTITY) == []
    if n:
        assert "3 of 50 indexed peaks (6.0%) are reflections that P 4/m m m forbids" in told[0]
        assert "(1 0 -1)" in told[0]


def test_the_setting_that_explains_violated_absences_is_to_be_pasted() -> None:
    setting = {"space group": "P b n m", "cell": [5.44, 7.64, 5.38, 90, 90, 90], "number": 1}
    absent = {"number": 30, "of": 400, "fraction": 0.075, "strongest": [], "settings": [setting]}
    own = figures(**{"absent reflections": absent})
    (told,) = own_absences(own, ScanLimits().limits(), IDENTITY | {"space_group": "P n m a"})
    assert "write in samples.tsv the space group `P b n m`, which forbids 1 of them" in told
    assert "for P n m a the cell 5.44 7.64 5.38 90 90 90" in told


def test_the_volume_has_three_times_the_limit() -> None:
    assert judge({"volume": 64.5 * 1.045}) == []
    (told, _) = judge({"volume": 64.5 * 1.048})
    assert "the volume differs by +4.69%" in told


def test_a_motion_is_told_where_spots_or_the_cell_are_off() -> None:
    """The cell takes most of a small drift up: spots are off by less than can be measured."""

    def said(pixels: float, bias: float) -> list[str]:
        off = {"shift in pixels": pixels, "shift in frames": 0.0, "bias in sigma": bias}
        return doubtful({"motions": [off | {"sentence": "moved"}]}, ScanLimits().limits())

    assert said(0.008, 2.0) == []
    assert said(0.008, 4.0) == ["moved"]
    assert said(0.012, 0.0) == ["moved"]


def test_limits_are_the_callers() -> None:
    strict = replace(ScanLimits().limits(), max_expansion=0.0)
    assert judge({"cell": [4.0, 4.0, 4.05, 90.0, 90.0, 90.0]}) == []
    assert judge({"cell": [4.0, 4.0, 4.05, 90.0, 90.0, 90.0]}, strict)


def test_vectors_read_as_fractions() -> None:
    assert vector_text([0.5, -1 / 3, 0.0]) == "(1/2, -1/3, 0)"
    assert vector_text([1 / 6, 0.25, 1.0]) == "(1/6, 1/4, 1)"


def test_the_gates_import_nothing_heavy() -> None:
    code = (
        "import sys; import hklflow.stages.accept; "
        "print(sorted({'cctbx', 'h5py', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def motion(pixels: float, frames: float) -> dict[str, Any]:
    return {"sentence": "r1: it moved", "shift in pixels": pixels, "shift in frames": frames}


@pytest.mark.parametrize(
    ("found", "told", "stops"),
    [
        ({"motions": [motion(0.008, 0.005)]}, False, False),
        ({"motions": [motion(0.06, 0.01)]}, True, False),
        ({"motions": [motion(0.01, 0.4)]}, True, False),
        ({"motions": [motion(0.01, 0.6)]}, False, True),
        ({"motions": [motion(1.2, 0.0)]}, False, True),
        ({"lost": [{"sentence": "r1: it is gone"}]}, False, True),
        ({"other crystals": [{"sentence": "a twin", "share": 0.03}]}, True, False),
        ({"other crystals": [{"sentence": "a twin", "share": 0.12}]}, False, True),
    ],
)
def test_what_moved_or_is_another_crystal_is_told_or_stops_the_scan(
    found: dict[str, Any], told: bool, stops: bool
) -> None:
    limits = ScanLimits().limits()
    own = figures() | found
    assert bool(doubtful(own, limits)) == told
    sentences = failures(own, figures(), limits, IDENTITY)
    assert bool(sentences) == stops
    if stops:
        # Nothing about the lattice is wrong: no parent is proposed.
        assert len(sentences) == 1
        assert "scans.tsv" not in sentences[0]
        assert "limit" in sentences[0]


@pytest.mark.parametrize(("cell", "first"), [(-0.0117, "cell"), (-0.001, "outward")])
def test_a_displacement_that_the_distance_explains_comes_last(cell: float, first: str) -> None:
    """Diffuse maxima do not change the cell by a per cent."""
    sizes = [
        {"what": "cell", "relative": cell, "sentence": "cell"},
        {"what": "distance", "relative": 0.0132, "bias in sigma": 40.0, "sentence": "distance"},
    ]
    outward = [{"bias in sigma": 12.0, "sentence": "outward"}]
    sentences = doubtful({"outward": outward, "sizes": sizes}, ScanLimits().limits())
    assert sentences[0] == first
    assert {"outward", "distance"} <= set(sentences)
    assert (sentences[-1] == "outward") == (first == "cell")


@pytest.mark.parametrize(("relative", "is_doubtful"), [(-5.7e-5, False), (2e-4, True)])
def test_a_distance_that_is_off_by_less_than_a_wavelength_is_no_doubt(
    relative: float, is_doubtful: bool
) -> None:
    """No wavelength is known to 6e-5, even if that is 39 errors of the cell."""
    sizes = [{"what": "distance", "relative": relative, "bias in sigma": 39.0, "sentence": "far"}]
    assert bool(doubtful({"sizes": sizes}, ScanLimits().limits())) == is_doubtful


def test_a_wrong_distance_is_said_before_a_parent_is_given_another_cell() -> None:
    """A wrong distance on an arm breaks the relations of the cell."""
    sizes = [
        {"what": "distance", "relative": -0.009, "bias in sigma": 56.0, "sentence": "distance"}
    ]
    broken = figures(relations=[relation(deviation=0.02, relative=0.006, z=7.0)])
    parent = {**IDENTITY, "scan": IDENTITY["parent"]}
    limits = ScanLimits().limits()
    first, *others = failures(broken, figures() | {"sizes": sizes}, limits, parent)
    assert first.startswith("distance; correct this first")
    assert failures(broken, figures(), limits, parent) == others
    # A child that differs has changed: the distance is its parent's.
    assert "distance" not in failures(broken, figures() | {"sizes": sizes}, limits, IDENTITY)[0]


def test_a_row_of_the_parent_is_said_with_its_remedy() -> None:
    """The refinement of the parent's own scan does not know the import."""
    own = {**IDENTITY, "scan": IDENTITY["parent"]}
    misfit = {
        "rms in pixels": None,
        "fixed": False,
        "reduced chi2": None,
        "fraction indexed": None,
        "least fraction": 0.2,
    }
    misfit |= {"fraction indexed": 1.0, "least fraction": 0.5, "peaks": 400}
    parent = figures(misfit=misfit, rows=[{"sentence": "write this"}])
    found = doubts(figures(misfit=misfit, rows=[]), parent, ScanLimits().limits(), own)
    assert "write this" in found


def test_wrong_hkl_are_said_before_a_crystal_that_seems_to_be_lost() -> None:
    own = {**IDENTITY, "scan": IDENTITY["parent"]}
    limits, part = ScanLimits().limits(), {"sentence": "23% of the peaks fit"}
    row = {"sentence": "moved by (+4.0, -14.5) pixels the peaks fit better", "much better": True}
    first, second = failures(figures(lost=[part]), figures(rows=[row]), limits, own)
    assert first.startswith("moved by (+4.0, -14.5) pixels the peaks fit better; correct this")
    assert "23% of the peaks fit" in second
    alike = row | {"much better": False}
    assert failures(figures(lost=[part]), figures(rows=[alike]), limits, own) == [second]
    assert failures(figures(lost=[]), figures(rows=[row]), limits, own) == []


def test_few_reflections_contradict_a_setting_if_another_one_allows_them() -> None:
    """Four of 300 peaks: one per cent, which multiple scattering also gives."""
    peaks = {"number": 4, "of": 300, "fraction": 4 / 300, "strongest": [[1, 0, 1]]}
    setting = {"space group": "P 1 21/n 1", "cell": [6.0, 7.0, 8.0, 90, 95, 90], "number": 0}
    limits, own = ScanLimits().limits(), IDENTITY | {"space_group": "P 1 21/c 1"}
    (told,) = own_absences(
        figures() | {"absent reflections": peaks | {"settings": [setting]}}, limits, own
    )
    assert "write in samples.tsv the space group `P 1 21/n 1`" in told
    peaks["settings"] = []
    assert own_absences(figures() | {"absent reflections": peaks}, limits, own) == []


def left_of(**changes: Any) -> dict[str, Any]:
    """Record of 60 of 1000 peaks that are not indexed."""
    left = {"fraction": 0.06, "error": 0.0075, "half the wavelength": 0, "rings": {}, "rest": 0}
    left |= {"half the wavelength or a superlattice": 0, "satellites": [], "named": False}
    left |= changes
    return left | {"sentence": unindexed_words.sentence(left, "150K")}


def doubts_on(left: dict[str, Any], parent_offsets: Sequence[Any] = ()) -> list[str]:
    offset = {"vector": [0.5, 0.5, 0.0], "arms": 1, "peaks": 58, "expected by chance": 0.01}
    misfit = {"fixed": False, "rms in pixels": None, "reduced chi2": None}
    misfit |= {"fraction indexed": None, "least fraction": 0.2}
    of = figures(unindexed=[left], offsets=[offset], misfit=misfit)
    return doubts(of, figures(offsets=parent_offsets), ScanLimits().limits(), IDENTITY)


def test_peaks_of_a_superlattice_are_counted_once() -> None:
    """The sentence of the hint has the parent; the other sentence counted the same peaks."""
    vector = [0.5, 0.5, 0.0]
    (only,) = doubts_on(left_of(satellites=[(vector, 58)], rest=2))
    assert "check for a weak superlattice" in only
    rings, hint = doubts_on(left_of(satellites=[(vector, 50)], rings={"ice": 10}, named=True))
    assert rings.startswith("1.0 ± 0.3 % of the peaks of 150K are not indexed, without those at")
    assert "superlattice or a modulation" not in rings
    assert "check for a weak superlattice" in hint


def test_half_the_wavelength_is_not_also_a_superlattice() -> None:
    left = left_of(named=True, **{"half the wavelength": 60})
    (only,) = doubts_on(left)
    assert "60 are reflections of half the wavelength" in only


def test_peaks_that_the_parent_lacks_are_not_half_the_wavelength() -> None:
    """Half the wavelength is there at every temperature."""
    left = left_of(**{"half the wavelength or a superlattice": 60})
    (only,) = doubts_on(left)
    assert "check for a weak superlattice" in only
    (both,) = doubts_on(left, [{"vector": [0.5, 0.5, 0.0]}])
    assert "a superlattice, or reflections of half the wavelength" in both
