"""Expressions that select the scans of a calibration by run number, date or scan name.

``;`` separates alternatives, ``,`` joins conditions that must all be true. A condition is a run
(``1040``), a limit (``>1040``, ``>=1040``, ``<1040``, ``<=1040``), a range with both ends included
(``1040..1060``), the same with dates (``>=2026-11-02``), or a name with ``*`` and ``?``:
``quartz/*`` for sample and scan, ``*K`` for the scan name alone. ``*`` is every scan.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from fnmatch import fnmatchcase
from itertools import chain

from hklflow.base.errors import HklflowError

_VALUE = r"([0-9]{1,18}|[0-9]{4}-[0-9]{2}-[0-9]{2})"  # a run or a date
_LIMIT = re.compile(rf"(>=|<=|>|<|)\s*{_VALUE}")
_RANGE = re.compile(rf"{_VALUE}\s*\.\.\s*{_VALUE}")
_PART = r"[A-Za-z0-9*?][A-Za-z0-9*?.+_-]*"
_GLOB = re.compile(rf"(?:({_PART})/)?({_PART})")
_NUMBER = re.compile(r"[0-9.+-]+")

_FORMS = (
    "`1040`, `>=1040`, `1040..1060`, `>=2026-11-02`, `quartz/*`, `*K`; `,` means and, `;` means or"
)


@dataclass(frozen=True)
class _Span:
    """Whole numbers from ``low`` to ``high``, both included: runs, or days of the calendar."""

    low: int = 0
    high: int | None = None

    @property
    def is_all(self) -> bool:
        return self.low <= 0 and self.high is None

    def and_(self, other: "_Span") -> "_Span":
        highs = [h for h in (self.high, other.high) if h is not None]
        return _Span(max(self.low, other.low), min(highs, default=None))

    def has(self, value: int | None) -> bool:
        """Return True if the value is in the span; an unknown value only if all values are."""
        if value is None:
            return self.is_all
        return self.low <= value and (self.high is None or value <= self.high)

    def possible(self) -> bool:
        return self.high is None or self.low <= self.high


@dataclass(frozen=True)
class _Group:
    """Conditions that must all be true: the run, the day, and every pattern."""

    runs: _Span = _Span()
    days: _Span = _Span()
    names: tuple[tuple[str, str], ...] = ()

    def and_(self, other: "_Group") -> "_Group":
        return _Group(
            self.runs.and_(other.runs), self.days.and_(other.days), self.names + other.names
        )

    def matches(self, sample: str, scan: str) -> bool:
        return all(fnmatchcase(sample, s) and fnmatchcase(scan, n) for s, n in self.names)

    def possible(self) -> bool:
        """Return True if a scan can satisfy all conditions."""
        return (
            self.runs.possible()
            and self.days.possible()
            and all(_have_common_name(patterns) for patterns in zip(*self.names, strict=True))
        )


@dataclass(frozen=True)
class AppliesTo:
    """A parsed expression.

    Attributes
    ----------
    text : str
        The expression in its normal form. `parse` of this text gives the same object.
    """

    text: str
    groups: tuple[_Group, ...]

    def covers(self, scan: str, run: int | None, day: date | None = None) -> bool:
        """Return True if the expression covers a scan named ``sample/scan``.

        Raises
        ------
        HklflowError
            If the result depends on an unknown run number or date, or the name is not sample/scan.
        """
        sample, _, name = scan.partition("/")
        if not sample or not name or "/" in name:
            raise HklflowError(f"scan {scan!r} is not named sample/scan; write both")
        number = None if day is None else day.toordinal()
        fitting = [group for group in self.groups if group.matches(sample, name)]
        if any(group.runs.has(run) and group.days.has(number) for group in fitting):
            return True
        possible = [
            group
            for group in fitting
            if (run is None or group.runs.has(run)) and (number is None or group.days.has(number))
        ]
        for column, what, missing in (
            ("run", "run number", run is None and any(not g.runs.is_all for g in possible)),
            ("date", "date", number is None and any(not g.days.is_all for g in possible)),
        ):
            if missing:
                raise HklflowError(
                    f"scan {scan} has no {what}, but `{self.text}` needs it; "
                    f"add it in the column `{column}` of the table of scans"
                )
        return False

    def overlaps(self, other: "AppliesTo") -> bool:
        """Return True if a scan, existing or not, could be covered by both."""
        return any(a.and_(b).possible() for a in self.groups for b in other.groups)


def parse(text: str) -> AppliesTo:
    """Parse an expression.

    Raises
    ------
    HklflowError
        If the expression is malformed, or one alternative covers no scan (``>5,<3``).
    """
    groups, plain = [], []
    for alternative in text.split(";"):
        group, words = _Group(), []
        for term in alternative.split(","):
            condition, word = _term(term.strip(), text)
            group = group.and_(condition)
            words.append(word)
        if not group.possible():
            raise HklflowError(
                f"applies to {text!r}: {','.join(words)!r} can cover no scan; correct it"
            )
        groups.append(group)
        plain.append(",".join(words))
    return AppliesTo(";".join(plain), tuple(groups))


def _term(term: str, text: str) -> tuple[_Group, str]:
    if match := _LIMIT.fullmatch(term):
        sign, n = match[1], _value(match[2], text)
        low = n + 1 if sign == ">" else 0 if sign.startswith("<") else n
        high = n - 1 if sign == "<" else None if sign.startswith(">") else n
        return _group(match[2], _Span(low, high)), f"{sign}{_plain(match[2])}"
    if match := _RANGE.fullmatch(term):
        if ("-" in match[1]) != ("-" in match[2]):
            raise HklflowError(
                f"applies to {text!r}: the range {term!r} has a run and a date; write two of a kind"
            )
        low, high = (_value(end, text) for end in match.groups())
        first, last = map(_plain, match.groups())
        if low > high:
            raise HklflowError(
                f"applies to {text!r}: the range {term!r} is reversed; write {last}..{first}"
            )
        return _group(match[1], _Span(low, high)), f"{first}..{last}"
    match = _GLOB.fullmatch(term)
    if match and ".." not in term and not _NUMBER.fullmatch(term):
        return _Group(names=((match[1] or "*", match[2]),)), term
    what = f"{term!r} is not a condition" if term else "one condition is empty"
    raise HklflowError(f"applies to {text!r}: {what}; conditions are {_FORMS}")


def _value(word: str, text: str) -> int:
    """Return a run number, or a date as its day in the calendar."""
    if "-" not in word:
        return int(word)
    try:
        return date.fromisoformat(word).toordinal()
    except ValueError:
        raise HklflowError(
            f"applies to {text!r}: {word} is not a date; write it as 2026-11-02"
        ) from None


def _plain(word: str) -> str:
    return word if "-" in word else str(int(word))


def _group(word: str, span: _Span) -> _Group:
    return _Group(days=span) if "-" in word else _Group(runs=span)


def _have_common_name(patterns: Iterable[str]) -> bool:
    """Return True if a text of at least one character matches all patterns.

    All patterns read the same characters. For each pattern, the set of positions that it can have
    reached is followed. One character that is in no pattern represents all other characters.
    """
    patterns = tuple(set(patterns))
    alphabet = {*chain.from_iterable(patterns), "\0"} - set("*?")
    start = tuple(_skip_stars(p, {0}) for p in patterns)
    visited, todo = set(), [start]
    while todo:
        places = todo.pop()
        for character in alphabet:
            after = tuple(
                _step(p, positions, character)
                for p, positions in zip(patterns, places, strict=True)
            )
            if all(len(p) in positions for p, positions in zip(patterns, after, strict=True)):
                return True
            if after not in visited and all(after):
                visited.add(after)
                todo.append(after)
    return False


def _skip_stars(pattern: str, places: set[int]) -> frozenset[int]:
    reached = set(places)
    for place in places:
        while place < len(pattern) and pattern[place] == "*":
            place += 1
            reached.add(place)
    return frozenset(reached)


def _step(pattern: str, places: frozenset[int], character: str) -> frozenset[int]:
    reached = set()
    for place in places:
        if place < len(pattern):
            if pattern[place] == "*":
                reached.add(place)
            elif pattern[place] in ("?", character):
                reached.add(place + 1)
    return _skip_stars(pattern, reached)
