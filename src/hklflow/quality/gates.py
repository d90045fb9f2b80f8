"""Check whether a scan still fits its parent: limits, and a sentence for each failed limit.

The numbers come from `orientation.transition` and are stored in ``orientation.json`` under
``symmetry``. This module is plain Python, so that the job that decides is small.

One kind of transition is not detected: unresolved peaks whose mean does not change. Domains of
lower symmetry in equal fractions, for example, have on average the cell of the parent. Such domains
are visible in the rocking width of the temperature series, or where the peaks split. The strength
of a forbidden peak is not tested either: multiple scattering and half the wavelength are judged
only by the increase above the level of the parent.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hklflow.base.values import CELL_NAMES
from hklflow.orientation.limits import Limits
from hklflow.quality import remedies, unindexed_words
from hklflow.quality.remedies import along, vector_text

FEWEST = 20
"""Smallest number of peaks in a refinement; a fixed orientation with fewer peaks is not judged."""

ACCURACY = 1e-4
"""Relative error of the distance that is no doubt, however many errors of the cell it is.
Hardly any wavelength is known better, and it changes the cell by the same factor."""


def failures(
    figures: Mapping[str, Any],
    parent_figures: Mapping[str, Any],
    limits: Limits,
    identity: Mapping[str, Any],
) -> list[str]:
    """Return the sentences of the failed limits; the last sentence proposes a remedy.

    The size of the cell is compared only along temperature, and if both temperatures are known:
    otherwise the thermal expansion is unknown.

    Parameters
    ----------
    figures, parent_figures : mapping
        Results of `orientation.transition.figures` for the scan and for its parent.
    identity : mapping
        ``sample``, ``scan``, ``temperature`` (K or None), ``parent``, ``parent_temperature``, and
        ``space_group`` of the parent; along another axis also ``axis``, ``value`` and
        ``parent_value``.

    Returns
    -------
    sentences : list of str
        Empty if no limit is missed, or if there are too few peaks to judge (see `untested`).
    """
    if untested(figures, parent_figures, identity) is not None:
        return []
    where = f"{identity['sample']} {identity['scan']}"
    axis, value, _ = along(identity)
    if value is not None:
        where += f" at {axis.at(value)}"
    jumps = _jumps(figures, parent_figures, limits, where, identity)
    reasons = [
        *_unindexed(figures, parent_figures, limits, where, identity),
        *_absences(figures, parent_figures, limits, where, identity),
        *_relations(figures, limits, where, identity),
        *jumps,
    ]
    if reasons:
        rise = _rise(figures, parent_figures)
        fraction = figures["fraction unindexed"]
        remedy = remedies.proposal(
            figures,
            parent_figures,
            identity,
            rise=rise if rise > limits.max_unindexed_rise else None,
            unindexed=fraction if fraction > limits.max_unindexed else None,
            broken=any(limits.broken(relation) for relation in figures["relations"]),
            absent=_is_absent(figures, parent_figures, limits),
            jumped=bool(jumps),
        )
        reasons = [*_of_geometry(parent_figures, limits, identity), *reasons, remedy]
    moved = [f"{where}: {text}" for text in _moved(figures, limits)]
    first = _of_rows(figures, parent_figures, identity) if moved and not reasons else []
    return [*first, *moved, *reasons]


def _of_geometry(
    parent_figures: Mapping[str, Any], limits: Limits, identity: Mapping[str, Any]
) -> list[str]:
    """Return why a parent does not fit itself: a wrong distance or beam centre deforms the cell."""
    if identity["scan"] != identity["parent"] or parent_figures.get("motions"):
        return []
    about = {key: parent_figures.get(key, ()) for key in ("sizes", "rows")}
    return [
        f"{sentence}; correct this first, because it also breaks relations of the cell"
        for sentence in doubtful(about, limits)
    ]


def _of_rows(
    figures: Mapping[str, Any], parent_figures: Mapping[str, Any], identity: Mapping[str, Any]
) -> list[str]:
    """Return why peaks are lost that belong to the crystal: all hkl are wrong."""
    of = parent_figures if identity["scan"] == identity["parent"] else figures
    return [
        f"{row['sentence']}; correct this first, because with wrong hkl a crystal seems to be lost"
        for row in of.get("rows", ())
        if row.get("much better", False)
    ]


def doubtful(figures: Mapping[str, Any], limits: Limits) -> list[str]:
    """Return sentences on findings of `quality.doubts` that need a look but do not stop a scan."""
    return [
        str(finding["sentence"])
        for finding, size, _, least, most in _findings(figures, limits)
        if least < size <= most
    ]


def _moved(figures: Mapping[str, Any], limits: Limits) -> list[str]:
    """Return sentences on findings of `quality.doubts` beyond the limits."""
    return [
        f"{finding['sentence']} ({description})"
        for finding, size, description, _, most in _findings(figures, limits)
        if size > most
    ]


def _findings(
    figures: Mapping[str, Any], limits: Limits
) -> Iterator[tuple[Mapping[str, Any], float, str, float, float]]:
    """Yield record, size, description with limit, limit for the report and limit for the gate."""
    limit = f"limit {limits.max_shift:g} pixels or frames"
    for motion in figures.get("motions", ()):
        shifts = [motion[f"shift in {unit}"] for unit in ("pixels", "frames")]
        moved = f"spots are displaced by {shifts[0]:.2g} pixels and {shifts[1]:.2g} frames, {limit}"
        # Cell and orientation absorb a small motion: they are then wrong although the spots fit.
        far = motion.get("bias in sigma", 0.0) > limits.told_bias
        yield motion, max(shifts), moved, 0.0 if far else limits.told_shift, limits.max_shift
    outward = [
        (one, one["bias in sigma"], "", limits.told_bias, math.inf)
        for one in figures.get("outward", ())
    ]
    # A wrong distance, which the cell confirms, displaces peaks along Q, too.
    sizes = {size["what"]: abs(size["relative"]) for size in figures.get("sizes", ())}
    explained = sizes.get("cell", 0.0) > limits.told_cell
    explained &= sizes.get("distance", 0.0) > limits.told_distance
    if not explained:
        yield from outward
    for displaced in figures.get("alike", ()):
        yield displaced, displaced["bias in sigma"], "", limits.told_bias, math.inf
    for module in figures.get("displaced modules", ()):
        yield module, module["size"], "", limits.told_module, math.inf
    for excess in figures.get("unexplained", ()):
        yield excess, excess["reduced chi2"], "", limits.told_chi2, math.inf
    for row in figures.get("rows", ()):
        yield row, 1.0, "", 0.0, math.inf
    for kept in figures.get("afterglow", ()):
        yield kept, kept["share"], "", 0.0, math.inf
    for part in figures.get("lost", ()):
        yield part, math.inf, f"the crystal was lost, {limit}", 0.0, limits.max_shift
    for size in figures.get("sizes", ()):
        most = limits.told_cell if size["what"] == "cell" else limits.told_distance
        if size["what"] == "distance" and figures.get("motions"):
            continue  # the distance would absorb a part of the motions
        if size.get("bias in sigma", 0.0) > limits.told_bias:
            # the errors of the cell do not contain the error of the distance
            most = min(most, ACCURACY)
        yield size, abs(size["relative"]), "", most, math.inf
    for left in figures.get("unindexed", ()):
        least = 0.0 if left["named"] else limits.told_unindexed
        # With few peaks, three unindexed peaks may exceed the limit by chance.
        size = left["fraction"] - (0.0 if left["named"] else left["error"])
        most = limits.max_unindexed
        yield left, size, f"peaks not indexed, limit {100 * most:g} %", least, most
    for other in figures.get("other crystals", ()):
        share, most = other["share"], limits.max_crystal
        yield other, share, f"a share of {100 * share:.2g} %, limit {100 * most:g} %", 0.0, most
    if explained:
        yield from outward


def untested(
    figures: Mapping[str, Any], parent_figures: Mapping[str, Any], identity: Mapping[str, Any]
) -> str | None:
    """Return the reason why no gate can judge a scan; None if the gates can judge it.

    A scan with a fixed orientation may have too few peaks.
    """
    counts = {identity["parent"]: parent_figures["peaks"], identity["scan"]: figures["peaks"]}
    few = [f"{scan} has {n}" for scan, n in counts.items() if n < FEWEST]
    if not few:
        return None
    return (
        f"no gate was tested: {' and '.join(few)} of the {FEWEST} peaks that the gates need; check "
        "the orientation by hand"
    )


def hints(
    figures: Mapping[str, Any],
    parent_figures: Mapping[str, Any],
    limits: Limits,
    identity: Mapping[str, Any],
) -> list[str]:
    """Return sentences on a weak superlattice, which needs a look but does not stop a scan.

    With only a few satellites, the fraction of unindexed peaks stays below its limit. But a single
    propagation vector explains far more of these peaks than expected by chance.
    """
    if untested(figures, parent_figures, identity) is not None:
        return []
    if _rise(figures, parent_figures) > limits.max_unindexed_rise:
        return []
    return [
        f"{identity['scan']}: {offset['peaks']} peaks that are not indexed lie at "
        f"{vector_text(offset['vector'], offset.get('sigma'))} from reflections "
        f"({offset['expected by chance']:.2g} expected by chance), and no peaks of "
        f"{_parent(identity)} do: check for a weak superlattice"
        for offset in _new_vectors(figures, parent_figures)
    ]


def of_other_sentences(
    figures: Mapping[str, Any], parent_figures: Mapping[str, Any], scan: str
) -> dict[str, Any]:
    """Return the figures of a child without the unindexed peaks that `hints` or a gate counts."""
    vectors = [x["vector"] for x in _new_vectors(figures, parent_figures)]
    left = figures.get("unindexed", ())
    return {**figures, "unindexed": [unindexed_words.without(x, vectors, scan) for x in left]}


def _new_vectors(figures: Mapping[str, Any], parent: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the propagation vectors without peaks of the parent, and not of half the wavelength.

    Half the wavelength has peaks at the same vectors in the parent.
    """
    halves = any(left.get(unindexed_words.HALF) for left in figures.get("unindexed", ()))
    return [
        offset
        for offset in (*figures["offsets"], *_incommensurate(figures))
        if remedies.is_new(offset, parent)
        and not (halves and unindexed_words.is_half(offset["vector"]))
    ]


def own_absences(
    figures: Mapping[str, Any], limits: Limits, identity: Mapping[str, Any]
) -> list[str]:
    """Return a sentence if a parent has peaks that its own space group forbids.

    No gate detects such peaks, because the gates compare the children with the parent.
    """
    absent = figures["absent reflections"]
    few = absent["fraction"] <= limits.max_absent and not absent.get("settings")
    if absent["number"] < limits.min_absent_peaks or few:
        return []
    # Reflections of a twin may be where the centring forbids reflections.
    twins = sum(other.get("absent", 0) for other in figures.get("other crystals", ()))
    if twins and absent["number"] - twins <= limits.max_absent * absent["of"]:
        return []
    return [
        f"{identity['scan']}: {absent['number']} of {absent['of']} indexed peaks "
        f"({absent['fraction']:.1%}) are reflections that {identity['space_group']} forbids, "
        f"strongest {_listed(absent['strongest'])}: {_cause(absent, identity)}; as many are "
        "accepted of the children"
    ]


def _cause(absent: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """Return why reflections are observed that the space group of a parent forbids."""
    # files of older versions have no settings
    if not (settings := absent.get("settings")):
        return "another space group, multiple scattering or half the wavelength"
    ways = [
        f"the space group `{one['space group']}`, which forbids {one['number']} of them, or for "
        f"{identity['space_group']} the cell "
        + " ".join(f"{x:.4f}".rstrip("0").rstrip(".") for x in one["cell"])
        for one in settings
    ]
    return (
        "the cell is in another setting of the space group; write in samples.tsv "
        f"{', or '.join(ways)}"
    )


def _listed(reflections: Sequence[Sequence[int]]) -> str:
    return ", ".join("(" + " ".join(str(index) for index in hkl) + ")" for hkl in reflections)


def _rise(figures: Mapping[str, Any], parent: Mapping[str, Any]) -> float:
    """Return the increase of the fraction of unindexed peaks above that of the parent."""
    return float(figures["fraction unindexed"] - parent["fraction unindexed"])


def _parent(identity: Mapping[str, Any]) -> str:
    return f"the parent {identity['parent']} ({identity['space_group']})"


def _unindexed(
    figures: Mapping[str, Any],
    parent: Mapping[str, Any],
    limits: Limits,
    where: str,
    identity: Mapping[str, Any],
) -> list[str]:
    rise = _rise(figures, parent)
    if rise <= limits.max_unindexed_rise:
        return []
    text = (
        f"{where}: {figures['fraction unindexed']:.1%} of the peaks are not indexed by the cell of "
        f"{_parent(identity)}, compared with {parent['fraction unindexed']:.1%} of the parent's "
        f"(rise {rise:.1%}, limit {limits.max_unindexed_rise:.1%})"
    )
    vectors = [*figures["offsets"], *_incommensurate(figures)]
    for offset in sorted(vectors, key=lambda x: -x["peaks"])[:2]:
        vector = vector_text(offset["vector"], offset.get("sigma"))
        text += (
            f"; {offset['peaks']} of them lie at {vector} from reflections "
            f"({offset['expected by chance']:.2g} expected by chance)"
        )
    return [text]


def _incommensurate(figures: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return incommensurate vectors, unless another crystal explains them."""
    return () if figures.get("other crystals") else figures.get("incommensurate", ())


def _is_absent(figures: Mapping[str, Any], parent: Mapping[str, Any], limits: Limits) -> bool:
    absent = figures["absent reflections"]
    rise = absent["fraction"] - parent["absent reflections"]["fraction"]
    return bool(absent["number"] >= limits.min_absent_peaks and rise > limits.max_absent)


def _absences(
    figures: Mapping[str, Any],
    parent: Mapping[str, Any],
    limits: Limits,
    where: str,
    identity: Mapping[str, Any],
) -> list[str]:
    absent, before = figures["absent reflections"], parent["absent reflections"]
    if not _is_absent(figures, parent, limits):
        return []
    return [
        f"{where}: {absent['number']} of {absent['of']} indexed peaks ({absent['fraction']:.1%}) "
        f"are reflections that the space group of {_parent(identity)} forbids, compared with "
        f"{before['fraction']:.1%} of the parent's (rise limit {limits.max_absent:.1%}, at least "
        f"{limits.min_absent_peaks} peaks); strongest {_listed(absent['strongest'])}"
    ]


def _relations(
    figures: Mapping[str, Any], limits: Limits, where: str, identity: Mapping[str, Any]
) -> list[str]:
    return [
        f"{where}: the {figures['crystal system']} relation {relation['relation']} of "
        f"{_parent(identity)} is broken by {_size(relation)} "
        f"({relation['z']:.0f} sigma; limits {limits.min_strain:.2%} and {limits.min_z:g} sigma)"
        for relation in sorted(figures["relations"], key=lambda r: -r["relative"])
        if limits.broken(relation)
    ]


def _size(relation: Mapping[str, Any]) -> str:
    if relation["unit"] == "deg":
        return f"{abs(relation['deviation']):.2g} deg"
    return f"{relation['relative']:.2%}"


def _jumps(
    figures: Mapping[str, Any],
    parent: Mapping[str, Any],
    limits: Limits,
    where: str,
    identity: Mapping[str, Any],
) -> list[str]:
    step = _step(identity)
    if step is None:
        return []
    sentences = []
    for name, times, value, sigma, value_0, sigma_0 in _extents(figures, parent):
        change = math.log(value / value_0)
        noise = math.hypot(sigma / value, sigma_0 / value_0)
        limit = times * (limits.max_expansion * step + limits.min_jump) + limits.min_z * noise
        if abs(change) > limit:
            sentences.append(
                f"{where}: {name} differs by {change:+.2%} from the value of {_parent(identity)}"
                f" over {step:g} K: more than thermal expansion of "
                f"{times * limits.max_expansion:.0e}/K, the uncertainties "
                f"and an allowance of {times * limits.min_jump:.2%} explain "
                f"(limit {limit:.2%})"
            )
    return sentences


def _step(identity: Mapping[str, Any]) -> float | None:
    """Return the temperature difference from the parent in K.

    None if a temperature is unknown, or if the scans are compared along another axis, whose effect
    on the cell is not known.
    """
    if not along(identity)[0].is_temperature:
        return None
    temperatures = (identity["temperature"], identity["parent_temperature"])
    if None in temperatures:
        return None
    return abs(float(temperatures[0]) - float(temperatures[1]))


def _extents(
    figures: Mapping[str, Any], parent: Mapping[str, Any]
) -> list[tuple[str, float, float, float, float, float]]:
    """Return axes and volume for the comparison.

    Each entry has the name, a multiple of the linear limit, and value and σ of both scans.
    """
    rows = [
        (
            name,
            1.0,
            figures["cell"][i],
            figures["cell_sigma"][i],
            parent["cell"][i],
            parent["cell_sigma"][i],
        )
        for i, name in enumerate(CELL_NAMES[:3])
        # Equal axes are listed only once.
        if all(abs(figures["cell"][i] - figures["cell"][j]) > 1e-9 for j in range(i))
    ]
    volumes = [x[key] for x in (figures, parent) for key in ("volume", "volume_sigma")]
    return [*rows, ("the volume", 3.0, volumes[0], volumes[1], volumes[2], volumes[3])]
