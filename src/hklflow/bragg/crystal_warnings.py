"""Sentences on scans that are merged, or left out: what disagrees, and what to do."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hklflow.bragg.combination import Judged
from hklflow.bragg.common_setting import Choice

_DOUBTFUL = 2.5  # limits of significance: unmodelled absorption alone stays below
_ALIKE = 0.3  # smallest correlation of amplitudes of scans of one structure


def of_merged(scans: Sequence[Judged], limit: float) -> Iterator[str]:
    """Yield sentences on the indices and on the agreement of the scans that are merged.

    Parameters
    ----------
    scans : sequence of Judged
    limit : float
        Significance that shows a contradiction.
    """
    unlike = [one for one in scans if is_unlike(one)]
    yield from _of_unlike(unlike, len(scans))
    for one in scans:
        if one.choice is not None:
            yield from _of_choice(one.member.name, one.choice, unlike=one in unlike)
        yield from _of_influence(one, limit)


def contradiction(one: Judged) -> str:
    """Return the sentence on a scan that contradicts the others."""
    its, choice = one.influence, one.choice
    assert its is not None
    if choice is not None and is_unlike(one):
        return (
            f"{one.member.name} contradicts the other scans: its amplitudes correlate with theirs "
            f"with {choice.correlation:.2f} only ({choice.common} reflections in common; ΔCC1/2 "
            f"{'unknown' if its.delta is None else f'{its.delta:.4f}'})"
        )
    return (
        f"{one.member.name} contradicts the other scans: without it, CC1/2 of the {its.common} "
        f"reflections in common rises from {its.cc_half:.4f} to {its.cc_half_without:.4f} "
        f"(ΔCC1/2 {its.delta:.4f}), and the equivalents of {its.worse:.0%} agree better (chance: "
        f"{its.chance:.0%})"
    )


def _of_influence(one: Judged, limit: float) -> Iterator[str]:
    """Yield a sentence on a merged scan that is not tested, or agrees less than it should."""
    its = one.influence
    if its is not None and its.cc_half is None:
        yield (
            f"{one.member.name} is merged without a test of its intensities: only {its.common} of "
            "its reflections have two observations or more in other scans; measure more of it"
        )
    if its is not None and (its.contradicts(limit) or its.significance > _DOUBTFUL * limit):
        yield (
            f"{one.member.name} is merged, but agrees less with the other scans than the errors "
            f"explain ({its.significance:.1f} standard errors; CC1/2 is {its.cc_half:.4f}, and "
            f"{its.cc_half_without:.4f} without it): look for a small twin, refine "
            "`absorption`, or name it in `leave_out`"
        )


def is_unlike(one: Judged) -> bool:
    """Return True if the amplitudes of a scan hardly correlate with the other scans."""
    choice = one.choice
    if choice is None or choice.correlation is None:
        return False
    largest = np.tanh(np.arctanh(choice.correlation) + 3 / np.sqrt(choice.common - 3))
    return bool(largest < _ALIKE)


def _of_unlike(unlike: Sequence[Judged], n_merged: int) -> Iterator[str]:
    """Yield a sentence on merged scans that hardly correlate with the others."""
    if not unlike:
        return
    numbers = ", ".join(
        f"{one.member.name} {one.choice.correlation:.2f}"
        for one in unlike
        if one.choice is not None and one.choice.correlation is not None
    )
    few = 2 * len(unlike) < n_merged
    advice = "name them in `leave_out`" if few else "do not use the merged intensities"
    yield (
        f"scans do not agree with the others ({len(unlike)} of {n_merged}; correlation of "
        f"amplitudes: {numbers}): other structures, wrong indices, or intensities that are too "
        f"weak; {advice}"
    )


def _of_choice(name: str, choice: Choice, *, unlike: bool) -> Iterator[str]:
    """Yield sentences on indices that changed, or are ambiguous."""
    kept = choice.indexing.text
    if not choice.indexing.is_identity:
        yield f"{name} is indexed again: {kept} of its indices"
    if choice.sure or unlike:
        return
    if choice.correlation is None:
        yield (
            f"the indices {kept} of {name} are not tested: it has only {choice.common} reflections "
            "in common with the other scans"
        )
        return
    other = choice.next_correlation
    yield (
        f"the indices of {name} are ambiguous: {kept} correlate with the other scans with "
        f"{choice.correlation:.3f}, {choice.second} with "
        f"{'too few reflections' if other is None else f'{other:.3f}'}; the first are used. "
        "Measure more of it, or name it in `leave_out`"
    )


def cell_text(cell: NDArray[np.float64]) -> str:
    """Return a cell (6,) with five digits."""
    return " ".join(f"{x:.5g}" for x in cell)
