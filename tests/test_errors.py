"""What is told, as a terminal shows it."""

import pytest

from hklflow.base.errors import printable, printable_lines

_MEGABYTES = 3_000_000


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("'" + "x" * _MEGABYTES + "'", "'xxx"),
        ('"' + "it's " * 1000 + '"', "\"it's"),
        (repr([0.0] * 1000), "[0.0, 0.0"),
        ("x" * 1000, "xxx"),
        ("a b " * _MEGABYTES, "a b a b"),
    ],
    ids=["quoted", "with an apostrophe", "list", "word", "words"],
)
def test_a_long_value_is_shown_by_its_ends(value: str, shown: str) -> None:
    told = printable_lines(f"hklflow: t.tsv, row 3: the cell {value} is no number; correct it")
    assert told.startswith(f"hklflow: t.tsv, row 3: the cell {shown}")
    assert told.endswith("is no number; correct it")
    assert "characters)" in told
    assert len(told) < 4200


def test_values_are_shortened_one_by_one() -> None:
    told = printable(f"'{'x' * 300}' of the raw file's header is not '{'y' * 300}'; correct it")
    assert told.count("(302 characters)") == 2
    assert len(told) < 250


@pytest.mark.parametrize(
    "text",
    [
        "/".join(["folder" * 42] * 15),
        "the file's " + "sentence " * 40 + "of others' data",
        "; ".join(["a problem of an ordinary length, with a cure"] * 80),
        "'" + "x" * 200 + "'",
    ],
    ids=["path", "sentence", "problems", "value"],
)
def test_what_is_no_longer_than_usual_is_told_whole(text: str) -> None:
    assert printable_lines(f"hklflow: {text}") == f"hklflow: {text}"
