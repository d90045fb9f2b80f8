"""What the history of a product (one record for each stage) says about its calibrations."""

from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]

WORD = "diagnostic"
"""Quality of a product to which a calibration that was not accepted has contributed."""


def calibrations(history: Sequence[Record]) -> list[Record]:
    """Return the versions of the calibration store in a history, each version once.

    A version that was used with two statuses (because it was superseded between) gets both
    statuses, and the worse quality.
    """
    versions: dict[tuple[str, str, int], Record] = {}
    for record in history:
        for item in record.get("calibrations", []):
            key = (item["kind"], item["state_id"], item["version"])
            known = versions.setdefault(key, dict(item))
            if item["status"] not in known["status"].split(", "):
                known["status"] += f", {item['status']}"
            if item["quality"] == "diagnostic":
                known["quality"] = "diagnostic"
    return list(versions.values())


def diagnoses(history: Sequence[Record]) -> list[str]:
    """Return the reasons why a product is diagnostic; none for a reduced product.

    A used calibration was not accepted, or a stage states that its products are diagnostic.
    """
    stated = [record["diagnostic"] for record in history if "diagnostic" in record]
    used = [
        f"the {item['kind']} v_{item['version']:04d} was not accepted (status {item['status']})"
        for item in calibrations(history)
        if item["quality"] == "diagnostic"
    ]
    return list(dict.fromkeys([*used, *stated]))
