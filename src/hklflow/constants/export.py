"""Export of constants to the file formats of other programs."""

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hklflow.base import publish
from hklflow.base.errors import HklflowError
from hklflow.constants.files import DetectorConstants
from hklflow.constants.status import bad
from hklflow.formats.hdf5_output import hdf5_output
from hklflow.nexus.entry import PACKED

Array = NDArray[Any]

PYFAI_SUFFIXES = ("edf", "npy", "h5")


def export_cheetah(constants: DetectorConstants, folder: Path) -> list[Path]:
    """Write one file per module in the format of Cheetah, OnDA and Hummingbird for AGIPD.

    ``Cheetah-AGIPDnn-calib.h5`` has arrays (3, cells, ss, fs) of the stages high, medium, low; the
    index of a memory cell is its number:

    - ``AnalogOffset``, int16: ADU.
    - ``DigitalGainLevel``, uint16: a stage begins above this digital output; 0 for high.
    - ``RelativeGain``, float32: factor for the analogue output minus the offset. The product is in
      ADU at ``reference_gain`` (attribute of the file, ADU/keV) for every pixel and stage.
    - ``Badpixel``, uint8: 1 if a constant is missing or not reliable.

    Parameters
    ----------
    constants : DetectorConstants
    folder : Path
        Output folder; created if it does not exist.

    Returns
    -------
    list of Path

    Raises
    ------
    HklflowError
        If the detector has no analogue gain levels.
    """
    for number in constants.modules:
        lacks = {"offset", "gain", "gain_threshold"} - set(constants.group(number))
        if lacks or constants.about.get("digital") == "stage":
            what = ", ".join(sorted(lacks)) or "analogue gain levels"
            raise HklflowError(
                f"module {number} has no {what}, which Cheetah's files require; export constants "
                "of AGIPD, or use --format pyfai"
            )
    reference = _usual_gain(constants)

    def write(number: int) -> Callable[[Path], None]:
        def to(path: Path) -> None:
            with hdf5_output(path) as file:
                file.attrs["reference_gain"] = reference
                _write_cheetah(file, constants, number, reference)

        return to

    return _publish(
        {folder / f"Cheetah-AGIPD{number:02d}-calib.h5": write(number)
         for number in constants.modules}
    )  # fmt: skip


def _write_cheetah(
    file: h5py.File, constants: DetectorConstants, number: int, reference: float
) -> None:
    group = constants.group(number)
    cells = constants.about["cell_ids"]
    shape = (3, max(cells) + 1, *group["offset"].shape[2:])
    types = {
        "AnalogOffset": np.int16,
        "DigitalGainLevel": np.uint16,
        "RelativeGain": np.float32,
        "Badpixel": np.uint8,
    }
    out = {
        name: file.create_dataset(
            name,
            shape,
            kind,
            chunks=(1, 1, *shape[2:]),
            fillvalue=int(name == "Badpixel"),
            **PACKED,
        )
        for name, kind in types.items()
    }
    for place, cell in enumerate(cells):
        offset, gain = group["offset"][:, place], group["gain"][:, place]
        # For an integer output, the whole part of the threshold is the same threshold.
        level = np.floor(group["gain_threshold"][:, place])
        wrong = ~np.isfinite(offset) | ~np.isfinite(gain) | (gain == 0)
        wrong[1:] |= ~np.isfinite(level)
        if "constants_status" in group:
            wrong |= bad(group["constants_status"][:, place])
        if "pixel_mask" in group:
            wrong |= group["pixel_mask"][()] != 0
        out["AnalogOffset"][:, cell] = _whole(offset, np.int16)
        out["DigitalGainLevel"][0, cell] = 0
        out["DigitalGainLevel"][1:, cell] = _whole(level, np.uint16)
        with np.errstate(divide="ignore", invalid="ignore"):
            out["RelativeGain"][:, cell] = np.where(wrong, 0, reference / gain)
        out["Badpixel"][:, cell] = wrong


def _whole(values: Array, kind: type[np.integer[Any]]) -> Array:
    limits = np.iinfo(kind)
    return np.clip(np.rint(np.nan_to_num(values)), limits.min, limits.max).astype(kind)


def _usual_gain(constants: DetectorConstants) -> float:
    """Return the median gain of stage high over the detector, for its first memory cell."""
    gains = []
    for number in constants.modules:
        gain = constants.group(number)["gain"][0, 0]
        gains.append(gain[np.isfinite(gain)])
    known = np.concatenate(gains)
    if known.size == 0:
        raise HklflowError("the gain of stage high is unknown; measure X-ray fluorescence first")
    return float(np.median(known))


def export_pyfai(constants: DetectorConstants, folder: Path, suffix: str = "edf") -> list[Path]:
    """Write ``mask`` and ``flat`` in a format that pyFAI reads: modules one below the other.

    The mask, int8, is 1 for masked pixels. Counts are divided by the flat field, float32; pixels
    with an unknown flat field have 1 and are masked.

    Parameters
    ----------
    constants : DetectorConstants
    folder : Path
        Output folder; created if it does not exist.
    suffix : {"edf", "npy", "h5"}
        Format; in HDF5 files the image is ``/data``.

    Returns
    -------
    list of Path

    Raises
    ------
    HklflowError
        If there is no pixel mask.
    """
    groups = [constants.group(number) for number in constants.modules]
    if not all("pixel_mask" in group for group in groups):
        raise HklflowError("these constants have no pixel_mask; make them with mask_constants")
    mask = np.concatenate([group["pixel_mask"][()] != 0 for group in groups])
    images: dict[str, Array] = {}
    if all("flatfield" in group for group in groups):
        flat = np.concatenate([group["flatfield"][()] for group in groups]).astype(np.float32)
        known = np.isfinite(flat) & (flat > 0)
        images["flat"] = np.where(known, flat, np.float32(1))
        mask |= ~known
    images["mask"] = mask.astype(np.int8)

    def write(image: Array) -> Callable[[Path], None]:
        return lambda path: _write_image(path, image)

    return _publish({folder / f"{name}.{suffix}": write(image) for name, image in images.items()})


def _write_image(path: Path, image: Array) -> None:
    if path.suffix == ".npy":
        np.save(path, image)
    elif path.suffix == ".h5":
        with hdf5_output(path) as file:
            file.create_dataset("data", data=image, **PACKED)
    else:
        from fabio.edfimage import EdfImage

        EdfImage(data=image).write(str(path))


def _publish(files: dict[Path, Callable[[Path], None]]) -> list[Path]:
    """Write files under temporary names, then rename them to their final names."""
    moves: Sequence[tuple[Path, Path]] = [
        (publish.partial(path, secrets.token_hex(4)), path) for path in files
    ]
    for folder in {path.parent for path in files}:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        for (temporary, _), write in zip(moves, files.values(), strict=True):
            write(temporary)
        publish.publish(moves)
    finally:
        for temporary, _ in moves:
            temporary.unlink(missing_ok=True)
    return list(files)
