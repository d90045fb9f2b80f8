"""Key values of detector constants, and the acceptance limits (gates) that they must meet."""

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.constants.combine import NONE
from hklflow.constants.counters import ABSENT
from hklflow.constants.detectors import STAGES
from hklflow.constants.files import DetectorConstants, about_of
from hklflow.constants.gate_limits import Gates
from hklflow.constants.status import bad

Floats = NDArray[np.float64]

# Largest number of memory cells that are sampled, approximately.
_CELLS = 8


def figures(
    constants: DetectorConstants, before: DetectorConstants | None = None
) -> dict[str, Any]:
    """Compute the key values of all modules, and their changes relative to earlier constants.

    Returns
    -------
    dict
        ``modules``: key values of each module, by module number. The other keys hold the key
        values of the detector.
    """
    modules: dict[str, dict[str, Any]] = {}
    sources: list[list[str]] = []
    masked = pixels = flagged = statuses = 0
    for number in constants.modules:
        group = constants.group(number)
        mask = group["pixel_mask"][()]
        there = (mask & np.uint32(ABSENT)) == 0
        n, size = int((mask[there] != 0).sum()), int(there.sum())
        masked, pixels = masked + n, pixels + size
        row: dict[str, Any] = {"masked": n / max(size, 1)}
        left_out = _is_absent(group)
        source = (
            [str(s) for s in np.atleast_1d(group["gain"].attrs["source"])]
            if "gain" in group
            else []
        )
        if source and not left_out:
            sources.append(source)
        if "constants_status" in group and not left_out:
            # `measured_gains` judges stages without a measured gain.
            kept = [s for s in range(len(STAGES)) if not source or source[s] != NONE]
            wrong = bad(_sample(group["constants_status"])[kept])
            if wrong.size:
                row["bad constants"] = float(wrong.mean())
                flagged, statuses = flagged + int(wrong.sum()), statuses + wrong.size
        for name in ("offset", "noise", "gain", "flatfield"):
            if name in group:
                medians = _medians(_sample(group[name]), mask == 0).tolist()
                row[name] = [median if np.isfinite(median) else None for median in medians]
        if before is not None and number in before.modules and not left_out:
            then = before.group(number)
            row |= {} if _is_absent(then) else _changes(group, then, mask == 0)
        modules[str(number)] = row
    result: dict[str, Any] = {"masked": masked / max(pixels, 1), "modules": modules}
    if statuses:
        result["bad constants"] = flagged / statuses
    if sources:
        result["gain source"] = [
            "|".join(dict.fromkeys(median for source in stage for median in source.split("|")))
            for stage in zip(*sources, strict=True)
        ]
    return result


def judge(metrics: dict[str, Any], gates: Gates) -> list[dict[str, Any]]:
    """Return the result of every gate: name, value, limit, passed, sentence."""
    modules = metrics["modules"]
    verdicts = []
    masked, flagged = "the fraction of masked pixels", "the fraction of constants with a status bit"
    verdicts += _limit("masked", {"": metrics["masked"]}, gates.max_masked, masked)
    verdicts += _limit(
        "masked_module", _of_modules(modules, "masked"), gates.max_masked_module, masked
    )
    if "bad constants" in metrics:
        values = {"": metrics["bad constants"]}
        verdicts += _limit("bad_constants", values, gates.max_bad_constants, flagged)
    verdicts += _change(modules, "gain", gates.max_gain_change)
    verdicts += _change(modules, "offset", gates.max_offset_change, " in units of the noise")
    if gates.measured_gains and "gain source" in metrics:
        verdicts.append(_measured_gains(metrics["gain source"]))
    return verdicts


def _verdict(
    name: str, value: float | None, limit: float, passed: bool, sentence: str
) -> dict[str, Any]:
    return {"name": name, "value": value, "limit": limit, "passed": passed, "sentence": sentence}


def _of_modules(modules: dict[str, Any], key: str) -> dict[str, float]:
    return {number: row[key] for number, row in modules.items() if key in row}


def _limit(
    name: str, values: dict[str, float], top: float | None, what: str
) -> list[dict[str, Any]]:
    """Return the verdict on the worst module; empty without a limit or without values."""
    if top is None or not values:
        return []
    # NaN must not pass.
    worst = max(values, key=lambda key: values[key] if values[key] <= np.inf else np.inf)
    value = values[worst]
    suffix = f" of module {worst}" if worst else ""
    passed = bool(value <= top)
    verb = "is within" if passed else "exceeds"
    sentence = f"{what}{suffix} is {value:.4g}, which {verb} {top:g}"
    return [_verdict(name, value if np.isfinite(value) else None, top, passed, sentence)]


def _change(
    modules: dict[str, Any], name: str, top: float | None, unit: str = ""
) -> list[dict[str, Any]]:
    what = f"the median change of the {name}"
    not_compared = {n: row[key] for n, row in modules.items() if (key := _reason_key(name)) in row}
    if top is None or not not_compared:
        return _limit(f"{name}_change", _of_modules(modules, f"{name} change"), top, what + unit)
    module, why = next(iter(not_compared.items()))
    sentence = f"{what} of module {module} cannot be determined: {why}"
    return [_verdict(f"{name}_change", None, top, False, sentence)]


def _measured_gains(sources: list[str]) -> dict[str, Any]:
    wrong = []
    for stage, source in zip(STAGES, sources, strict=True):
        if NONE in source.split("|"):
            wrong.append(f"the gain of {stage} is unknown")
        elif "default" in source.split("|"):
            wrong.append(f"the gain of {stage} is from default_gain")
    sentence = f"the gains of high, medium, low are from {', '.join(sources)}"
    return _verdict(
        "measured_gains", float(len(wrong)), 0.0, not wrong, ", ".join(wrong) or sentence
    )


def _sample(dataset: h5py.Dataset) -> NDArray[Any]:
    """Read some memory cells, evenly spaced."""
    if dataset.ndim < 3:
        return np.asarray(dataset[()])
    cells = dataset.shape[-3]
    step = max(1, cells // _CELLS)
    return np.asarray(dataset[..., ::step, :, :])


def _medians(values: NDArray[Any], good: NDArray[np.bool_]) -> Floats:
    """Return the median over good pixels and memory cells, per stage; (1,) without stages."""
    stages = values if values.ndim == 4 else values[None]
    return np.array([_median(stage[..., good]) for stage in stages])


def _median(values: NDArray[Any]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")


def _is_absent(group: h5py.Group) -> bool:
    """Return True if the module was left out; its file then only records that it is absent."""
    return bool(about_of(group).get("absent", False))


def _reason_key(name: str) -> str:
    """Return the key of the reason why a quantity was not compared."""
    return f"{name} not compared"


def _changes(now: h5py.Group, then: h5py.Group, good: NDArray[np.bool_]) -> dict[str, Any]:
    """Return the largest median change over the stages that both have, or why there is none."""
    changes: dict[str, Any] = {}
    for name in ("gain", "offset"):
        if not (name in now and name in then):
            continue
        shapes = [(*group[name].shape[:-3], *group[name].shape[-2:]) for group in (now, then)]
        ids = [np.asarray(about_of(group)["cell_ids"]) for group in (now, then)]
        common, rows_now, rows_then = np.intersect1d(ids[0], ids[1], return_indices=True)
        if shapes[0] != shapes[1]:
            changes[_reason_key(name)] = "the accepted constants have modules of another size"
            continue
        if not common.size:
            changes[_reason_key(name)] = "the accepted constants have none of its memory cells"
            continue
        some = slice(None, None, max(1, common.size // _CELLS))
        new, old = _cells(now[name], rows_now[some]), _cells(then[name], rows_then[some])
        was, known = (np.isfinite(values).any(axis=(1, 2, 3)) for values in (old, new))
        if (lost := was & ~known).any():
            stages = ", ".join(np.array(STAGES)[lost])
            changes[_reason_key(name)] = (
                f"only the accepted constants have a {name} of stage {stages}"
            )
        elif (both := was & known).any():
            unit = np.abs(old) if name == "gain" else _cells(now["noise"], rows_now[some])
            change = _medians(np.abs(new - old) / np.where(unit > 0, unit, np.nan), good)
            changes[f"{name} change"] = float(np.max(change[both]))
        elif known.any():
            changes[_reason_key(name)] = f"the accepted constants have no {name}"
    return changes


def _cells(dataset: h5py.Dataset, places: NDArray[np.int64]) -> NDArray[Any]:
    """Read the values (stage, cell, ss, fs) of the memory cells at these indices."""
    return np.stack([dataset[:, place] for place in places], axis=1)
