"""Sentences on the ΔPDF against temperature: nothing that the values do not carry."""

from dataclasses import replace

import numpy as np
import pytest

from hklflow.base.axis import Axis
from hklflow.quality.pdf_words import Course, sentences, way
from hklflow.volumes.pdf_changes import Changes

T = np.array([100.0, 150.0, 200.0, 250.0, 300.0])
ERRORS = np.full(5, 0.1)


def course(departure: np.ndarray, changed: list[bool]) -> Course:
    """A course of vectors along a, 4 Å long; departures (T, n)."""
    n = departure.shape[1]
    sigma = np.full(departure.shape, 0.1)
    ones = np.ones(len(T))
    found = Changes(
        factor=ones,
        factor_sigma=0.01 * ones,
        departure=departure,
        sigma=sigma,
        chi2=np.arange(n, 0, -1.0),
        p=np.full(n, 1e-9),
        changed=np.array(changed),
        limit=1e-3,
        excess=1.0,
        free=False,
        fitted=True,
    )
    vectors = np.stack([np.arange(1.0, n + 1), np.zeros(n), np.zeros(n)], axis=1)
    return Course(
        scans=[f"{t:g}K" for t in T],
        temperature=T,
        reference=4,
        vectors=vectors,
        length=4 * np.repeat(vectors[None, :, 0], len(T), axis=0),
        value=departure,
        sigma=sigma,
        difference=departure - departure[-1],
        difference_sigma=sigma,
        tested=np.ones(n, bool),
        used=np.arange(len(T)),
        changes=found,
        rate=0.05,
        heat=ones,
        scale_sigma=0.01 * ones,
        notes=["3D-ΔPDF: 90K not compared"],
    )


def test_steps_lines_and_maxima_are_told_apart() -> None:
    step = way(T, np.array([3.0, 3.0, 3.0, 1.0, 1.0]), ERRORS)
    assert step.step == (200.0, 250.0)
    assert step.monotone
    assert step.change == pytest.approx(2.0)
    line = way(T, np.array([3.0, 2.5, 2.0, 1.5, 1.0]), ERRORS)
    assert line.linear
    assert line.step is None
    top = way(T, np.array([1.0, 2.0, 3.0, 2.0, 1.0]), ERRORS)
    assert not top.monotone
    assert top.step is None
    # A bend is neither, though a step describes it better than a line.
    bend = way(T, np.array([3.0, 2.0, 1.0, 1.2, 1.5]), ERRORS)
    assert bend.step is None
    assert not bend.linear
    # Errors too large to tell a step from a line.
    vague = way(T, np.array([3.0, 2.9, 2.0, 1.1, 1.0]), 10 * ERRORS)
    assert vague.monotone
    assert vague.step is None
    assert not vague.linear


def test_sentences_name_vector_length_values_and_direction() -> None:
    departure = np.array([[3.0, 1, 1], [3, 2, 1], [3, 3, 1], [1, 2, 1], [1, 1, 1]])
    lines = sentences(course(departure, [True, True, False]))
    assert lines[0] == (
        "3D-ΔPDF: of 3 vectors 2 change between 300 and 100 K beyond noise, fill and a common "
        "factor (false discovery rate 5%)"
    )
    assert lines[1] == (
        "(1 0 0) at 4.00 Å rises on cooling from 1.00 ± 0.10 at 300 K to 3.00 ± 0.10 at 100 K, in "
        "a step between 250 and 200 K"
    )
    assert lines[2].startswith("(2 0 0) at 8.00 Å does not change steadily")
    assert "largest 3.00 ± 0.10 at 200 K" in lines[2]
    assert lines[3:] == ["3D-ΔPDF: 90K not compared"]


def test_a_factor_is_explained_by_heat_only_if_the_reflections_have_it() -> None:
    still = course(np.ones((5, 3)), [False] * 3)
    assert "none of 3 vectors changes" in sentences(still)[0]
    assert len(sentences(still)) == 2
    assert still.changes is not None
    factor = np.array([1.4, 1.3, 1.2, 1.1, 1.0])
    grown = replace(still, changes=replace(still.changes, factor=factor))
    assert "1.400 ± 0.017 at 100 K compared with 300K" in sentences(grown)[1]
    assert "correlations change as a whole, or the scale is wrong" in sentences(grown)[1]
    hot = replace(grown, heat=np.array([1.5, 1.4, 1.3, 1.2, 1.0]))
    assert "Debye-Waller factor of the reflections explains 1.50 to 1" in sentences(hot)[1]


def test_without_a_comparison_only_the_reasons_are_given() -> None:
    assert sentences(replace(course(np.ones((5, 1)), [False]), changes=None)) == [
        "3D-ΔPDF: 90K not compared"
    ]


def test_along_a_field_directions_are_with_increasing_field() -> None:
    departure = np.array([[3.0, 1, 1], [3, 2, 1], [3, 3, 1], [1, 2, 1], [1, 1, 1]])
    lines = sentences(course(departure, [True, True, False]), Axis("field", "B", "T"))
    assert "change between 100 and 300 T beyond" in lines[0]
    assert lines[1] == (
        "(1 0 0) at 4.00 Å falls with increasing field from 3.00 ± 0.10 at 100 T to 1.00 ± 0.10 at "
        "300 T, in a step between 200 and 250 T"
    )
