"""The same counts with S and its errors in another unit, a power of two."""

import re
import shutil
from pathlib import Path
from typing import Any

import h5py

#: Monitors of 10¹² counts, and of 10⁻¹². Products with a power of two are exact.
UNITS = (2.0**-40, 2.0**40)
#: S, its errors, and the covariance of the pair distribution, by the power of the unit.
_POWERS = {"data": 1, "data_errors": 1, "norm": -1, "covariance": 2}


def in_unit(path: Path, folder: Path, unit: float) -> Path:
    """Copy a volume into a folder with S in another unit; return the path of the copy."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = Path(shutil.copy(path, folder))
    with h5py.File(copy, "r+") as file:

        def scale(name: str, item: h5py.Group | h5py.Dataset) -> None:
            power = _POWERS.get(name.rpartition("/")[2])
            if power is not None and isinstance(item, h5py.Dataset):
                item[...] = item[()] * unit**power

        file.visititems(scale)
    return copy


def differences(plain: Any, scaled: Any, unit: float, name: str = "") -> list[str]:
    """Return what is neither equal within 10⁻⁴ nor a multiple by the unit or its square.

    Numbers in sentences are not compared. Paths, and records of the run, are ignored.
    """
    if isinstance(plain, dict) and isinstance(scaled, dict):
        keys = (plain.keys() | scaled.keys()) - {"command", "provenance"}
        return [
            x
            for key in sorted(keys)
            for x in differences(plain.get(key), scaled.get(key), unit, f"{name}/{key}")
        ]
    if isinstance(plain, list) and isinstance(scaled, list) and len(plain) == len(scaled):
        pairs = enumerate(zip(plain, scaled, strict=True))
        return [x for i, (a, b) in pairs for x in differences(a, b, unit, f"{name}[{i}]")]
    if isinstance(plain, float) and isinstance(scaled, int | float):
        same = any(abs(scaled / unit**k - plain) <= 1e-4 * abs(plain) for k in (0, 1, 2, -1))
    elif isinstance(plain, str) and isinstance(scaled, str):
        same = _words(plain) == _words(scaled)
    else:
        same = plain == scaled
    return [] if same else [f"{name}: {plain} and {scaled}"]


def _words(text: str) -> str:
    """Return a sentence without its numbers and powers of ten."""
    text = re.sub(r"\((\S+ ± \S+)\) × 10[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", r"\1", text)
    return re.sub(r"\d+(\.\d+)?( × 10[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)?", "#", text)
