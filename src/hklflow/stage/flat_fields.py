"""Read the response of the pixels: an image, the constants of a counter, or a normalisation."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hklflow.base.errors import HklflowError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hklflow.geometry import Detector, Rotation
    from hklflow.images.pixel_binning import PixelBinning

# Change of the response, because the geometry changed, above which it is reported.
_TOLD_CHANGE = 1e-3


class FlatField(NamedTuple):
    """Response of the pixels.

    Attributes
    ----------
    response : (slow, fast) array
        Relative response; 0 where it is unknown.
    about : dict
        Description of a normalisation, see `constants.standard`; empty for other flat fields.
    """

    response: "NDArray[Any]"
    about: dict[str, Any]


def read_flat_field(
    path: Path, shape: tuple[int, ...], binning: "PixelBinning | None"
) -> FlatField | None:
    """Return the relative response of the pixels; None if the file's flood was not measured.

    Raises
    ------
    HklflowError
        If the flat field is for another detector.
    """
    from hklflow.constants.files import open_constants
    from hklflow.constants.flood import read_flat
    from hklflow.formats import images
    from hklflow.images.pixel_binning import bin_mean

    about: dict[str, Any] = {}
    if path.suffix == ".nxs":
        with open_constants(path) as constants:
            about = constants.about.get("normalization", {})
            if not any("flatfield" in constants.group(number) for number in constants.modules):
                print(f"note: {path} has no flat field, because no flood was measured")
                return None
    flat = read_flat(path) if path.suffix == ".nxs" else images.read_image(path)
    of_binned = binning is not None and about.get("binning") == binning.factor
    if binning is not None and not of_binned:
        binning.require(flat.shape, f"the flat field {path}")
        return FlatField(bin_mean(flat, binning.factor), about)
    if flat.shape != shape:
        raise HklflowError(
            f"{path} has {flat.shape} pixels, the frames have {shape}; give the flat field of this "
            "detector"
        )
    return FlatField(flat, about)


def absolute_factor(
    flat: FlatField | None, path: Path | None, first: "Detector", binning: "PixelBinning | None"
) -> float:
    """Return the counts per monitor of a pixel at the foot of the normal, for S of the standard.

    The pixel is that of unbinned frames, also if ``first`` has the blocks of a binning as pixels.

    Raises
    ------
    HklflowError
        If the normalisation has no absolute factor.
    """
    from hklflow.geometry import corrections

    factor = None if flat is None else flat.about.get("absolute")
    if factor is None:
        raise HklflowError(
            f"`absolute` needs a normalisation with an absolute factor, and {path or 'none'} is "
            "used; use one that was measured with an elastic standard and a monitor, or set "
            "`transform: {absolute: false}`"
        )
    area = corrections.pixel_area(first)
    return float(factor) * (area if binning is None else area / binning.factor**2)


def require_same_corrections(about: dict[str, Any], path: Path, done: Collection[str]) -> None:
    """Refuse to undo or to repeat what an elastic standard has been corrected for.

    Raises
    ------
    HklflowError
    """
    if about.get("standard") != "elastic":
        return
    made = set(about["factors"])
    now = {"solid angle", "polarisation", "sensor efficiency"} & set(done)
    if made != now:
        raise HklflowError(
            f"the normalisation {path} was corrected for {', '.join(sorted(made))}, and this scan "
            f"is corrected for {', '.join(sorted(now)) or 'nothing'}: the response would be wrong "
            f"by {', '.join(sorted(made ^ now))}; correct both alike (`transform`, and the sensor "
            "in the geometry of the normalisation)"
        )


def notes(flat: FlatField | None, rotation: "Rotation", first: "Detector") -> dict[str, Any]:
    """Return what a product records about its normalisation; warn if the geometry has changed.

    Raises
    ------
    HklflowError
        If the normalisation was measured at another wavelength.
    """
    from hklflow.constants.standard import response_change

    if flat is None or not flat.about:
        return {}
    about = flat.about
    known: dict[str, Any] = {"normalisation": about.get("artificial") or about["standard"]}
    for name, words in (
        ("median_error", "median relative error of the normalisation"),
        ("absolute", "absolute factor (counts per monitor and sr)"),
        ("absolute_error", "error of the absolute factor"),
    ):
        if about.get(name) is not None:
            known[words] = about[name]
    made = float(about.get("wavelength_A") or rotation.beam.wavelength)
    if about["standard"] == "elastic" and abs(rotation.beam.wavelength / made - 1) > 0.01:
        raise HklflowError(
            f"the normalisation was measured at {made:.4g} Å, and this scan at "
            f"{rotation.beam.wavelength:.4g} Å; use a normalisation of this energy"
        )
    if first.shape == rotation.detector.shape:
        change = response_change(about, rotation.detector)
        if change > _TOLD_CHANGE:
            known["change of the response since the normalisation was measured"] = change
            print(
                f"warning: the geometry has changed since the normalisation was measured: the "
                f"response of some pixels is wrong by up to {change:.2%}; propose the "
                "normalisation again with the present geometry"
            )
    return known
