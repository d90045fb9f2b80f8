"""Expressions that select the scans of a calibration by run number or scan name.

``;`` separates alternatives, ``,`` joins conditions that must all be true. A condition is a run
(``1040``), a limit (``>1040``, ``>=1040``, ``<1040``, ``<=1040``), a range with both ends included
(``1040..1060``), or a name with ``*`` and ``?``: ``quartz/*`` for sample and scan, ``*K`` for the
scan name alone. ``*`` is every scan.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain

from hklflow.base.errors import HklflowError

_LIMIT = re.compile(r"(>=|<=|>|<|)\s*([0-9]{1,18})")
_RANGE = re.compile(r"([0-9]{1,18})\s*\.\.\s*([0-9]{1,18})")
_PART = r"[A-Za-z0-9*?][A-Za-z0-9*?.+_-]*"
_GLOB = re.compile(rf"(?:({_PART})/)?({_PART})")
_NUMBER = re.compile(r"[0-9.+-]+")

_FORMS = "`1040`, `>=1040`, `1040..1060`, `quartz/*`, `*K`; `,` means and, `;` means or"


@dataclass(frozen=True)
class _Group:
    """Conditions that must all be true: low <= run <= high, and every pattern."""

    low: int = 0
    high: int | None = None
    names: tuple[tuple[str, str], ...] = ()

    @property
    def needs_run(self) -> bool:
        return self.low > 0 or self.high is not None

    def and_(self, other: "_Group") -> "_Group":
        highs = [h for h in (self.high, other.high) if h is not None]
        return _Group(max(self.low, other.low), min(highs, default=None), self.names + other.names)

    def matches(self, sample: str, scan: str) -> bool:
        return all(fnmatchcase(sample, s) and fnmatchcase(scan, n) for s, n in self.names)

    def possible(self) -> bool:
        """Return True if a scan can satisfy all conditions."""
        return (self.high is None or self.low <= self.high) and all(
            _have_common_name(patterns) for patterns in zip(*self.names, strict=True)
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

    def covers(self, scan: str, run: int | None) -> bool:
        """Return True if the expression covers a scan named ``sample/scan``.

        Raises
        ------
        HklflowError
            If the result depends on an unknown run number, or the name is not sample/scan.
        """
        sample, _, name = scan.partition("/")
        if not sample or not name or "/" in name:
            raise HklflowError(f"scan {scan!r} is not named sample/scan; write both")
        fitting = [group for group in self.groups if group.matches(sample, name)]
        if any(not group.needs_run for group in fitting):
            return True
        if not fitting:
            return False
        if run is None:
            raise HklflowError(
                f"scan {scan} has no run number, but `{self.text}` needs it; "
                "add it in the column `run` of the table of scans"
            )
        return any(g.low <= run and (g.high is None or run <= g.high) for g in fitting)

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
        sign, n = match[1], int(match[2])
        low = n + 1 if sign == ">" else 0 if sign.startswith("<") else n
        high = n - 1 if sign == "<" else None if sign.startswith(">") else n
        return _Group(low, high), f"{sign}{n}"
    if match := _RANGE.fullmatch(term):
        low, high = int(match[1]), int(match[2])
        if low > high:
            raise HklflowError(
                f"applies to {text!r}: the range {term!r} is reversed; write {high}..{low}"
            )
        return _Group(low, high), f"{low}..{high}"
    match = _GLOB.fullmatch(term)
    if match and ".." not in term and not _NUMBER.fullmatch(term):
        return _Group(names=((match[1] or "*", match[2]),)), term
    what = f"{term!r} is not a condition" if term else "one condition is empty"
    raise HklflowError(f"applies to {text!r}: {what}; conditions are {_FORMS}")


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
