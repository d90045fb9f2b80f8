"""appliesTo against brute force, and what is refused."""

import itertools
import string
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hklflow.base.errors import HklflowError
from hklflow.calibration.applies import parse

RUNS = range(14)
# Days around the end of a year, so that their order is not that of their last digits.
DAYS = [date(2026, 12, 28) + timedelta(days=n) for n in range(6)]
# All names of one or two letters of two; patterns have no other letters.
PARTS = ["".join(p) for n in (1, 2) for p in itertools.product("ab", repeat=n)]
SCANS = [f"{sample}/{scan}" for sample in PARTS for scan in PARTS]


def fits(pattern, text):
    """Plain recursion: what `*` and `?` mean."""
    if not pattern:
        return not text
    if pattern[0] == "*":
        return fits(pattern[1:], text) or (bool(text) and fits(pattern, text[1:]))
    return bool(text) and pattern[0] in ("?", text[0]) and fits(pattern[1:], text[1:])


def holds(term, scan, run, day):
    """A condition, kept as (what, values) so that no parser is needed to know its meaning."""
    what, values = term
    sample, name = scan.split("/")
    if values and isinstance(values[0], date):
        run = day  # the same conditions, on the day
    return {
        "": lambda n: run == n,
        ">": lambda n: run > n,
        ">=": lambda n: run >= n,
        "<": lambda n: run < n,
        "<=": lambda n: run <= n,
        "..": lambda low, high: low <= run <= high,
        "scan": lambda pattern: fits(pattern, name),
        "both": lambda first, second: fits(first, sample) and fits(second, name),
    }[what](*values)


def text_of(term):
    what, values = term
    joined = {"..": "..", "both": "/"}.get(what)
    return joined.join(map(str, values)) if joined else f"{what.replace('scan', '')}{values[0]}"


numbers = st.integers(0, 11)
days = st.sampled_from(DAYS[1:-1])
patterns = st.text("ab*?", min_size=1, max_size=3)
terms = st.one_of(
    st.tuples(st.sampled_from(["", ">", ">=", "<", "<="]), st.tuples(numbers)),
    st.tuples(st.just(".."), st.tuples(numbers, numbers).map(lambda p: tuple(sorted(p)))),
    st.tuples(st.sampled_from(["", ">", ">=", "<", "<="]), st.tuples(days)),
    st.tuples(st.just(".."), st.tuples(days, days).map(lambda p: tuple(sorted(p)))),
    st.tuples(st.just("scan"), st.tuples(patterns)),
    st.tuples(st.just("both"), st.tuples(patterns, patterns)),
)
groups = st.lists(terms, min_size=1, max_size=3)
expressions = st.lists(groups, min_size=1, max_size=3)


def written(expression, gap=""):
    return f"{gap};{gap}".join(f"{gap},{gap}".join(map(text_of, g)) for g in expression)


def truth(expression):
    """Scans, runs and days that are covered, by trying all."""
    return {
        (scan, run, day)
        for scan in SCANS
        for run in RUNS
        for day in DAYS
        if any(all(holds(term, scan, run, day) for term in group) for group in expression)
    }


# Two letters at each end and one between are the most that six patterns of three ask for.
NAMES = ["".join(p) for n in range(1, 6) for p in itertools.product("ab", repeat=n)]


def is_possible(group):
    """Whether a scan fulfils all conditions: run, day, sample and scan can be tried one by one."""
    limits = [term for term in group if term[0] not in ("scan", "both")]
    samples = [values[0] for what, values in group if what == "both"]
    scans = [values[-1] for what, values in group if what in ("scan", "both")]
    return any(
        all(holds(term, "a/a", run, day) for term in limits) for run in RUNS for day in DAYS
    ) and all(
        any(all(fits(pattern, name) for pattern in patterns) for name in NAMES)
        for patterns in (samples, scans)
    )


@settings(max_examples=200, deadline=None)
@given(expressions, st.sampled_from(["", " ", "  "]))
@pytest.mark.slow
def test_covers_what_brute_force_says(expression, gap):
    text = written(expression, gap)
    if not all(is_possible(group) for group in expression):
        with pytest.raises(HklflowError, match="can cover no scan"):
            parse(text)
        return
    parsed = parse(text)
    covered = {
        (scan, run, day)
        for scan in SCANS
        for run in RUNS
        for day in DAYS
        if parsed.covers(scan, run, day)
    }
    assert covered == truth(expression)
    assert parse(parsed.text) == parsed
    assert " " not in parsed.text


@settings(max_examples=200, deadline=None)
@given(expressions, expressions)
def test_overlaps_if_and_only_if_a_scan_is_covered_by_both(first, second):
    try:
        a, b = parse(written(first)), parse(written(second))
    except HklflowError:
        assert not all(is_possible(group) for group in (*first, *second))
        return
    common = any(is_possible(one + other) for one in first for other in second)
    assert a.overlaps(b) == b.overlaps(a) == common
    assert common or not truth(first) & truth(second)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("<1040", ">=1040", False),
        ("<=1040", ">=1040", True),
        ("1..5", "6..9", False),
        ("1..5;20", "6..19,<30;20..21", True),
        ("quartz/*", "kvs/*", False),
        ("quartz/*", "*K", True),
        ("quartz/1*", "quartz/*K", True),
        ("100K", "10?K", True),
        ("100K", "1??0K", False),
        ("a*b", "b*a", False),
        ("*ab*", "*ba*", True),
        ("a*,<5", "*b,>5", False),
        ("*", "1", True),
        ("q*/a;r*/b", "q*/b;r*/a", False),
    ],
)
def test_overlaps(first, second, expected):
    assert parse(first).overlaps(parse(second)) is expected
    assert parse(second).overlaps(parse(first)) is expected


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", ",,", ";", "1,,2", "1,", ",1", "1;", ";1", "1; ,", "abc>=123", ">=", ">", "<=",
     "<", "..", "5..", "..5", "1..2..3", "a..b", "1...3", "-5", ">-5", "5-7", "1.5", ">1.5", "= 5",
     "==5", "=>5", "!5", ">>5", "> =5", "5 6", "a b", "a/b/c", "/a", "a/", "/", "../x", "*/..",
     "a\\b", "[ab]*", "a&b", "٣", "quartz/", "'*'", ">5K", "-a", ".a",
     "2026-11", "2026-1-2", "2026-13-01", ">=2026-02-30", "5..2026-11-02", "2026-11-02..5",
     "2026-11-02T10:00", "02-11-2026"],
)  # fmt: skip
def test_malformed_expressions_are_refused(text):
    with pytest.raises(HklflowError) as told:
        parse(text)
    assert repr(text) in str(told.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [("5..3", r"reversed; write 3\.\.5"), (">5,<3", "no scan"), ("<0", "no scan"),
     ("1,2", "no scan"), ("a*,b*", "no scan"), ("q/*,r/*", "no scan"), ("*;5,>7", "'5,>7'"),
     ("2026-11-03..2026-11-02", r"write 2026-11-02\.\.2026-11-03"),
     (">=2026-11-03,<2026-11-03", "no scan"),
     ("2026-11-31", "2026-11-31 is not a date; write it as 2026-11-02")],
)  # fmt: skip
def test_expressions_that_cover_nothing_are_refused(text, told):
    with pytest.raises(HklflowError, match=told):
        parse(text)


@pytest.mark.parametrize("text", [">=1040", "quartz/*,5", "5;kvs/*", "<=7"])
def test_a_missing_run_number_is_told_with_the_scan(text):
    with pytest.raises(HklflowError, match=r"scan quartz/100K has no run number"):
        parse(text).covers("quartz/100K", None)


@pytest.mark.parametrize("text", [">=2026-11-02", "quartz/*,2026-11-02", ">5,<2026-11-02"])
def test_a_missing_date_is_told_with_the_scan(text):
    with pytest.raises(HklflowError, match=r"scan quartz/100K has no date.*column `date`"):
        parse(text).covers("quartz/100K", 7)


def test_only_what_decides_is_asked_for():
    assert parse(">=2026-11-02").covers("a/b", None, date(2026, 11, 2))
    assert not parse("5,2026-11-02").covers("a/b", None, date(2026, 11, 3))
    assert not parse("5,2026-11-02").covers("a/b", 6, None)
    assert parse("5;2026-11-02").covers("a/b", 5, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("*", True), (">=0", True), ("100K", True), ("5;100K", True), ("kvs/*,5", False),
     ("kvs/*", False), ("200K;300K", False)],
)  # fmt: skip
def test_a_run_number_is_asked_for_only_if_it_decides(text, expected):
    assert parse(text).covers("quartz/100K", None) is expected


def test_the_examples_of_the_documents():
    assert parse("kvs_*K").covers("sampleA/kvs_100K", None)
    assert not parse("kvs_*K").covers("kvs_1K/test", None)
    assert parse("sampleA/*").covers("sampleA/kvs_100K", None)
    assert parse(" >= 1040 , < 1060 ").text == ">=1040,<1060"
    assert [run for run in range(1100) if parse(">=1040,<1060").covers("a/b", run)] == [
        *range(1040, 1060)
    ]


@pytest.mark.parametrize("scan", ["100K", "a/b/c", "/b", "a/", ""])
def test_a_scan_is_named_with_its_sample(scan):
    with pytest.raises(HklflowError, match="sample/scan"):
        parse("*").covers(scan, 1)


@settings(max_examples=300, deadline=None)
@given(st.text(string.printable, max_size=12))
def test_any_text_is_an_expression_or_told_in_one_sentence(text):
    try:
        parsed = parse(text)
    except HklflowError:
        return
    assert parse(parsed.text) == parsed
