"""Figures of constants that a person judges them by, and the gates that they must pass."""

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.constants.files import DetectorConstants
from hklflow.constants.gate_limits import Gates
from hklflow.constants.status import bad

Floats = NDArray[np.float64]

# Memory cells that are looked at where there are many.
_CELLS = 8


def figures(
    constants: DetectorConstants, before: DetectorConstants | None = None
) -> dict[str, Any]:
    """Figures of all modules, and of what changed against constants from before.

    Returns
    -------
    dict
        ``modules``: number -> figures of the module; and those of the detector.
    """
    modules: dict[str, dict[str, Any]] = {}
    masked = pixels = flagged = statuses = 0
    for number in constants.modules:
        group = constants.group(number)
        mask = group["pixel_mask"][()]
        status = _sample(group["constants_status"]) if "constants_status" in group else None
        row: dict[str, Any] = {"masked": float((mask != 0).mean())}
        masked, pixels = masked + int((mask != 0).sum()), pixels + mask.size
        if status is not None:
            row["bad constants"] = float(bad(status).mean())
            flagged, statuses = flagged + int(bad(status).sum()), statuses + status.size
        for name in ("offset", "noise", "gain", "flatfield"):
            if name in group:
                row[name] = _medians(_sample(group[name]), mask == 0).tolist()
        if before is not None and number in before.modules:
            row |= _changes(group, before.group(number), mask == 0)
        modules[str(number)] = row
    found: dict[str, Any] = {"masked": masked / max(pixels, 1), "modules": modules}
    if statuses:
        found["bad constants"] = flagged / statuses
    first = constants.group(constants.modules[0])
    if "gain" in first:
        found["gain source"] = [str(s) for s in np.atleast_1d(first["gain"].attrs["source"])]
    return found


def judge(found: dict[str, Any], gates: Gates) -> list[dict[str, Any]]:
    """Verdict of every gate on the figures: name, value, limit, passed, sentence."""
    modules = found["modules"]
    verdicts = []

    def limit(name: str, values: dict[str, float], top: float | None, what: str) -> None:
        if top is None or not values:
            return
        # Written so that NaN does not pass.
        worst = max(values, key=lambda key: values[key] if values[key] <= np.inf else np.inf)
        value = values[worst]
        of = f" of module {worst}" if worst else ""
        passed = bool(value <= top)
        told = "is within" if passed else "exceeds"
        verdicts.append(
            {
                "name": name,
                "value": value if np.isfinite(value) else None,
                "limit": top,
                "passed": passed,
                "sentence": f"{what}{of} is {value:.4g}, which {told} {top:g}",
            }
        )

    def of_modules(key: str) -> dict[str, float]:
        return {number: row[key] for number, row in modules.items() if key in row}

    limit("masked", {"": found["masked"]}, gates.max_masked, "the fraction of masked pixels")
    limit(
        "masked_module",
        of_modules("masked"),
        gates.max_masked_module,
        "the fraction of masked pixels",
    )
    if "bad constants" in found:
        limit(
            "bad_constants",
            {"": found["bad constants"]},
            gates.max_bad_constants,
            "the fraction of constants with a status bit",
        )
    limit(
        "gain_change",
        of_modules("gain change"),
        gates.max_gain_change,
        "the median change of the gain",
    )
    limit(
        "offset_change",
        of_modules("offset change"),
        gates.max_offset_change,
        "the median change of the offset in units of the noise",
    )
    if gates.measured_gains and "gain source" in found:
        sources = found["gain source"]
        assumed = [source for source in sources if "default" in source]
        verdicts.append(
            {
                "name": "measured_gains",
                "value": float(len(assumed)),
                "limit": 0.0,
                "passed": not assumed,
                "sentence": f"gains of high, medium, low are from {', '.join(sources)}",
            }
        )
    return verdicts


def _sample(dataset: h5py.Dataset) -> NDArray[Any]:
    """Values of some memory cells, evenly chosen."""
    if dataset.ndim < 3:
        return np.asarray(dataset[()])
    cells = dataset.shape[-3]
    step = max(1, cells // _CELLS)
    return np.asarray(dataset[..., ::step, :, :])


def _medians(values: NDArray[Any], good: NDArray[np.bool_]) -> Floats:
    """Median over good pixels and memory cells: of every stage, or one number (1,)."""
    stages = values if values.ndim == 4 else values[None]
    return np.array([_median(stage[..., good]) for stage in stages])


def _median(values: NDArray[Any]) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")


def _changes(now: h5py.Group, then: h5py.Group, good: NDArray[np.bool_]) -> dict[str, float]:
    """Largest median change of any stage."""
    found: dict[str, float] = {}
    for name in ("gain", "offset"):
        if not (name in now and name in then and now[name].shape == then[name].shape):
            continue
        new, old = _sample(now[name]), _sample(then[name])
        unit = np.abs(old) if name == "gain" else _sample(now["noise"])
        change = _medians(np.abs(new - old) / np.where(unit > 0, unit, np.nan), good)
        found[f"{name} change"] = float(np.max(change))
    return found
