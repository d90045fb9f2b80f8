"""Give the verdict on a scan (passed, doubtful or failed), with sentences on the doubts.

A scan that misses a gate of `quality.gates`, or a limit of another stage, has failed. A doubtful
scan is processed further, but a person should look at it first: a stage gave ``warnings`` in its
metrics. This module is plain Python, like `quality.gates`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from hklflow.base.errors import HklflowError
from hklflow.orientation.limits import Limits
from hklflow.quality import gates

Level = Literal["passed", "doubtful", "failed"]
LEVELS: tuple[Level, ...] = ("passed", "doubtful", "failed")

_LARGE = 0.05
"""Relative error of S(Q) from which its cause comes before all other doubts. Half of the intensity
that fails a scan if it is on a second lattice."""


def level(failures: Sequence[str], doubts: Sequence[str]) -> Level:
    """Return the verdict for the sentences of `gates.failures` and `doubts`."""
    if failures:
        return "failed"
    return "doubtful" if doubts else "passed"


def reasons(accepted: Mapping[str, Any]) -> list[str]:
    """Return the sentences of a verdict, failed gates first.

    Parameters
    ----------
    accepted : mapping
        Content of ``accepted.json``.
    """
    return [*accepted["sentences"], *accepted["doubts"]]


class OfScan(NamedTuple):
    """Verdict on a scan from all of its stages.

    ``reasons`` are sentences: failures, causes of large errors of S(Q), the largest first, and
    other doubts in the order of the stages.
    """

    verdict: Level
    reasons: list[str]


def of_scan(
    accepted: Mapping[str, Any], figures: Iterable[tuple[str, Mapping[str, Any]]]
) -> OfScan:
    """Combine the verdict on the orientation with the findings of the other stages.

    Warnings of ``orientation`` become notes, because `doubts` has already selected from them.

    Parameters
    ----------
    accepted : mapping
        Content of ``accepted.json``.
    figures : iterable of (str, mapping)
        Name of each product, such as ``r1, scale``, and its metrics; their ``failures`` and
        ``warnings`` are sentences. A repeated sentence is kept once, with its first product. The
        sentences of ``diagnostic`` say why all products are diagnostic. ``errors of S`` has the
        relative error of S(Q) behind a warning, if it is known.
    """
    failed, doubts = list(accepted["sentences"]), list(accepted["doubts"])
    reported, size = {*failed, *doubts}, {}
    for name, data in figures:
        for sentences, key in ((failed, "failures"), (doubts, "warnings")):
            for sentence in data.get(key) or ():
                if sentence not in reported and not _is_note(name):
                    reported.add(sentence)
                    sentences.append(f"{name}: {sentence}")
                    size[sentences[-1]] = data.get("errors of S", {}).get(sentence, 0.0)
        for sentence in data.get("diagnostic") or ():
            if sentence not in reported:
                reported.add(sentence)
                doubts.append(f"diagnostic: {sentence}")
    large = sorted((x for x in doubts if size.get(x, 0.0) >= _LARGE), key=lambda x: -size[x])
    return OfScan(level(failed, doubts), [*failed, *large, *(x for x in doubts if x not in large)])


def notes(
    accepted: Mapping[str, Any], figures: Iterable[tuple[str, Mapping[str, Any]]]
) -> list[str]:
    """Return the sentences of the stages of a scan that are not reasons of its verdict.

    They are the ``notes`` of each product, and the warnings of the orientation.
    """
    known = {*accepted["sentences"], *accepted["doubts"]}
    found = {
        f"{name}: {sentence}": None
        for name, data in figures
        for key in ("notes", "warnings")
        for sentence in data.get(key) or ()
        if (key == "notes" or _is_note(name)) and sentence not in known
    }
    return list(found)


def _is_note(name: str) -> bool:
    return name == "orientation"


def product_name(stem: str, rotation: str = "") -> str:
    """Return the name of a product for `of_scan`: rotation, if any, and file without suffix."""
    return f"{rotation}, {stem}" if rotation else stem


def require(accepted: Mapping[str, Any], where: object) -> None:
    """Raise an error if the content of an ``accepted.json`` has no verdict.

    Parameters
    ----------
    where : object
        File name for the message.

    Raises
    ------
    HklflowError
        If there is no verdict.
    """
    if "verdict" not in accepted:
        raise HklflowError(f"{where} has no verdict: an older hklflow wrote it; run `accept` again")


def counted(levels: Sequence[str]) -> str:
    """Count verdicts, such as ``12 passed, 1 doubtful, 2 failed``; zero counts are omitted."""
    numbers = [(levels.count(name), name) for name in LEVELS]
    return ", ".join(f"{n} {name}" for n, name in numbers if n)


def judged(
    figures: Mapping[str, Any],
    parent_figures: Mapping[str, Any],
    limits: Limits,
    identity: Mapping[str, Any],
) -> tuple[list[str], list[str]]:
    """Return failures and doubts of a scan; a doubt that stands among the failures is left out.

    For the parameters see `doubts`.
    """
    failed = gates.failures(figures, parent_figures, limits, identity)
    others = doubts(figures, parent_figures, limits, identity)
    return failed, [x for x in others if not any(sentence.startswith(x) for sentence in failed)]


def doubts(
    figures: Mapping[str, Any],
    parent_figures: Mapping[str, Any],
    limits: Limits,
    identity: Mapping[str, Any],
) -> list[str]:
    """Return sentences on doubts that do not stop a scan, each with a remedy.

    Parameters
    ----------
    figures, parent_figures : mapping
        ``symmetry`` in the ``orientation.json`` of the scan and of its parent.
    limits : Limits
    identity : mapping
        As for `gates.failures`.
    """
    is_parent = identity["scan"] == identity["parent"]
    if is_parent and "sizes" not in figures:
        figures = {**figures, "sizes": parent_figures.get("sizes", ())}
    if is_parent and parent_figures.get("rows"):  # with what to write, which a child does not know
        figures = {**figures, "rows": parent_figures["rows"]}
    if not is_parent:
        figures = gates.of_other_sentences(figures, parent_figures, identity["scan"])
    sentences = gates.doubtful(figures, limits)
    sentences += _misplaced(figures, limits)
    # The refinement of the parent requires more indexed peaks than those of its children.
    misfit = figures["misfit"]
    sentences += _poorly_indexed(parent_figures.get("misfit", misfit) if is_parent else misfit)
    sentences += _too_good(misfit, limits)
    if is_parent:
        sentences += gates.own_absences(figures, limits, identity)
    else:
        sentences += gates.hints(figures, parent_figures, limits, identity)
    untested = gates.untested(figures, parent_figures, identity)
    return [*sentences, untested] if untested is not None else sentences


def _misplaced(figures: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    """Yield a sentence if spots are displaced and `quality.doubts` has not explained it."""
    misfit = figures["misfit"]
    if misfit["rms in pixels"] is None or figures.get("motions"):
        return
    if any(x["reduced chi2"] > limits.told_chi2 for x in figures.get("unexplained", ())):
        return
    sizes = (misfit["rms in pixels"], misfit["rms in frames"])
    if all(size <= most for size, most in zip(sizes, limits.told_rmsd, strict=True)):
        return
    cure = "look at the picture of the residuals, and check the calibration and the rotation axis"
    if misfit["fixed"]:
        cure = (
            "check the orientation that was given and the calibration, or let it be refined "
            "(`orientation: {fixed: false}`)"
        )
    yield (
        f"{misfit['peaks']} indexed peaks are {sizes[0]:.2g} pixels and {sizes[1]:.2g} frames "
        f"(rms, beyond the peaks' own errors; limits {limits.told_rmsd[0]:g} and "
        f"{limits.told_rmsd[1]:g}) away from where the {'fixed ' if misfit['fixed'] else ''}"
        f"orientation predicts them: masks and integration boxes miss the spots; {cure}"
    )


def _poorly_indexed(misfit: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence if a fixed orientation indexes few peaks, where a refinement would fail."""
    fraction, least = misfit["fraction indexed"], misfit["least fraction"]
    if misfit["fixed"] and fraction is not None and fraction < least:
        yield (
            f"the fixed orientation indexes only {fraction:.0%} of the peaks (limit {least:.0%}): "
            "the orientation, the geometry or the cell may be wrong; check them, or index again "
            "without `orientation: start`"
        )


def _too_good(misfit: Mapping[str, Any], limits: Limits) -> Iterator[str]:
    """Yield a sentence if residuals are far below the errors of the peaks, unless peaks are few."""
    chi2 = misfit["reduced chi2"]
    if chi2 is not None and chi2 < limits.min_chi2 and misfit["peaks"] >= gates.FEWEST:
        yield (
            f"residuals are only {chi2**0.5:.2g} times the peaks' stated errors (reduced chi² "
            f"{chi2:.2g}, limit {limits.min_chi2:g}): the errors are too large, strong peaks weigh "
            "no more than weak ones, and a crystal that moved is not noticed; if spots are wider "
            "than a pixel and a frame, lower `find_peaks: sigma_floor`; errors of narrower spots "
            "contain the sampling of a mosaic crystal's spot, which is too large for an ideal "
            "Gaussian spot and which no setting lowers"
        )
