"""Limits of `merge` and `symmetrise`, with a sentence for each missed limit.

Differences beyond the noise are judged twice: by their size as a fraction of S (`volumes.pairs`),
and by their effect on the error bars, which contain only the noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.volumes.pairs import SIGNIFICANT


@dataclass(frozen=True)
class AgreementLimits:
    """Largest differences between rotations, or between equivalents.

    Attributes
    ----------
    told_chi2 : float
        Reduced χ² above which it is reported; error bars are too small by its square root.
    told_difference, max_difference : float
        Relative rms difference of S beyond the noise. Above the first value it is reported; above
        the second the volume has failed.
    """

    told_chi2: float
    told_difference: float
    max_difference: float


@dataclass(frozen=True)
class Findings:
    """Sentences on failed limits and on doubts."""

    failures: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, list[str]]:
        """Return the non-empty lists by name, in the form of metrics."""
        entries = {"failures": list(self.failures), "warnings": list(self.doubts)}
        return {name: sentences for name, sentences in entries.items() if sentences}

    def plus(self, *doubts: str) -> "Findings":
        """Return the findings with additional doubts."""
        return Findings(self.failures, (*self.doubts, *doubts))

    def checked(self, on_failure: str) -> "Findings":
        """Return the findings; a failed limit is an error if ``on_failure`` is "stop"."""
        if self.failures and on_failure == "stop":
            raise HklflowError(". ".join(self.failures))
        return self


def of_rotations(rows: Sequence[Mapping[str, Any]], limits: AgreementLimits) -> Findings:
    """Return findings on rotations that differ from the others.

    Parameters
    ----------
    rows : sequence of mapping
        Result of `pairs.Rotations.figures`.
    """
    known = [row for row in rows if row["difference"] is not None and row["z"] > SIGNIFICANT]
    if not known:
        return Findings()
    worst = max(known, key=lambda row: row["difference"])
    widest = max(known, key=lambda row: row["reduced chi2"])
    size, chi2 = worst["difference"], widest["reduced chi2"]
    failed = size > limits.max_difference
    if not failed and size <= limits.told_difference and chi2 <= limits.told_chi2:
        return Findings()
    text = (
        f"the rotations disagree: {worst['rotation']} differs from the others by {size:.1%} of S "
        f"beyond the noise and away from sharp peaks (limits {limits.told_difference:.1%} and "
        f"{limits.max_difference:.0%}), reduced chi2 {chi2:.2f}"
        + ("" if widest is worst else f" of {widest['rotation']}")
        + f" (limit {limits.told_chi2:g})"
    )
    text += _errors(chi2, limits) + f"; {_cause(worst, rows)}"
    return Findings((text,), ()) if failed else Findings((), (text,))


def _errors(chi2: float, limits: AgreementLimits) -> str:
    if chi2 <= limits.told_chi2:
        return ""
    return f": the error bars, which contain only noise, are about {chi2**0.5:.1f} times too small"


def _cause(worst: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the main cause of the difference, and the remedy."""
    name, factor = worst["rotation"], worst["factor"]
    if worst["factor explains"] > 0.5:
        return (
            f"{worst['factor explains']:.0%} of it is one factor for the whole rotation, "
            f"{factor:.3f}: its scale is wrong; check its monitor, attenuators and exposure, and "
            "`frame_scale: {source, rotation_scale}`, or leave the rotation out"
        )
    if worst["smooth explains"] > 0.5:
        return (
            f"{worst['smooth explains']:.0%} of it changes slowly with Q: absorption, background "
            "that is not the sample's, or a scale that drifts; look at the pictures of `scale` "
            f"and of the coverage of {name}, and see `frame_scale: {{source, window}}`"
        )
    return (
        f"neither a factor ({worst['factor explains']:.0%}) nor what changes slowly with Q "
        f"({worst['smooth explains']:.0%}) explains it: a crystal that moved, another crystal, or "
        f"artefacts; compare the planes of {name} with the planes of the others, and see the "
        "verdict on the orientation"
    )


def of_copies(copies: Sequence[Mapping[str, Any]]) -> Findings:
    """Return findings on rotations that are copies of each other, so that errors are too small.

    A low χ² alone is not a proof: errors may be too large for another reason
    (`estimator.dependence`).

    Parameters
    ----------
    copies : sequence of mapping
        Result of `pairs.Rotations.copies`.
    """
    return Findings(
        tuple(
            f"{first} and {second} are one measurement that counts twice: {row['equal']} of "
            f"{row['of']} voxels have exactly the same counts, where independent ones have at most "
            f"half of them: see whether one is a copy of the other's files (`hklflow check`), and "
            f"take the row of {second} out of the table of scans"
            for row in copies
            for first, second in [row["rotations"]]
        )
    )


def of_operations(
    found: Mapping[str, Any], laue: str, limits: AgreementLimits, told_slow: float
) -> Findings:
    """Return findings on Laue operations that S(Q) contradicts, and on differences of all mates.

    Parameters
    ----------
    found : mapping
        Result of `laue_pairs.examine`.
    laue : str
        Symbol of the Laue group.
    told_slow : float
        Relative difference of mates that changes slowly with Q, above which it is reported.
    """
    failures: list[str] = []
    doubts: list[str] = []
    if found["contradicted"]:
        rows = [row for row in found["operations"] if row["of"] in found["contradicted"]]
        size = max(row["beyond equal S"] for row in rows)
        text = _contradiction(found, rows, laue, limits)
        (failures if size > limits.max_difference else doubts).append(text)
    doubts += _equal(found, told_slow)
    if found["not tested"]:
        doubts.append(
            f"{found['not tested']} operations of the Laue group {laue} were not tested: they take "
            "voxels to places between others, or too few mates are measured; compare with "
            "`symmetrise: {symmetry}` of a subgroup"
        )
    return Findings(tuple(failures), tuple(doubts))


def _contradiction(
    figures: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    laue: str,
    limits: AgreementLimits,
) -> str:
    size = max(row["beyond equal S"] for row in rows)
    floor = [f"{row['of']} {row['rest']:.1%}" for row in figures["floor"]]
    names = [row["of"] for row in rows]
    listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    remains = figures["Laue group that remains"]
    symbol = remains.partition("(")[2].rstrip(")") or "P 1"
    return (
        f"S(Q) contradicts the Laue group {laue}: mates of (h k l) and ({listed}) differ by up to "
        f"{size:.1%} of S beyond noise and what equal S differs by"
        + (f" ({', '.join(floor)})" if floor else "")
        + f" (limits {limits.told_difference:.1%} and {limits.max_difference:.0%}); averages over "
        f"them are wrong, and so is all that is made of them; the Laue group that remains is "
        f"{remains}: set `symmetrise: {{symmetry: {symbol}}}`, or the space group of the sample"
    )


def _equal(figures: Mapping[str, Any], told_slow: float) -> list[str]:
    """Return sentences on differences of all mates that change slowly with Q."""
    rows = [row for row in (*figures["floor"], *figures["operations"]) if row["z"] > SIGNIFICANT]
    if not rows:
        return []
    worst = max(rows, key=lambda row: row["slow in Q"])
    if worst["slow in Q"] <= told_slow:
        return []
    return [
        f"mates that should be equal ({worst['of']}) differ by {worst['slow in Q']:.1%} of S in a "
        f"way that changes slowly with Q (limit {told_slow:.1%}): absorption, scale or "
        "background differ between them, or the symmetry is lower; averages depend on which of "
        "them was measured: see `frame_scale: {source, window}` and the coverage"
    ]


def of_equivalents(chi2: float | None, limits: AgreementLimits) -> list[str]:
    """Return a sentence if the error bars are too small for the scatter of equivalents."""
    if chi2 is None or chi2 <= limits.told_chi2:
        return []
    return [
        f"equivalents scatter more than their noise: reduced chi2 {chi2:.2f} (limit "
        f"{limits.told_chi2:g})" + _errors(chi2, limits) + "; see which volumes and operations "
        "differ under `operations compared`"
    ]
