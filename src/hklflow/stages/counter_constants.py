"""Combine the measurements of a photon counter: mask, flat field, dead time.

The output is the input of `pixel_mask: constants` and `transform: flat_field`.
"""

from pathlib import Path

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    dark: Path | None = None
    """Constants from the dark frames."""
    flood: Path | None = None
    """Constants from the flood; None: the constants have no flat field."""
    stability: Path | None = None
    """Constants from the stability test."""
    rate: Path | None = None
    """Constants from the count rate measurement."""


class Outputs(stage.Outputs):
    constants: Path
    """Constants of the detector; the whole image is stored as module 0."""
    picture: Path
    """Picture: the mask on top of the flat field (without a flat field: the mask alone)."""
    metrics: Path
    """Number of pixels with each defect, spread of the flat field, dead time, as JSON."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    detector: str | None = None
    """Name of the detector in pyFAI, such as `Pilatus 1M`; the mask bit of its gaps is `gap`. None:
    the gaps are taken from the raw files.
    """
    image: Path | None = None
    """Mask image from the user (any format that fabio reads, .npy or .png); nonzero is bad."""


class Params(Settings):
    """Settings of the stage."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Combine the available measurements."""
    import numpy as np

    from hklflow import plots
    from hklflow.base.errors import HklflowError
    from hklflow.constants import counters, files
    from hklflow.formats import mask_images
    from hklflow.images.masks import MaskBit
    from hklflow.nexus.entry import add_group
    from hklflow.stage import mask_steps

    given = {name: paths[0] for name, paths in inputs.paths().items() if paths}
    if not given:
        raise HklflowError(f"no measurement given; use one or more of {', '.join(inputs.paths())}")
    parts = {name: files.read_part(path) for name, path in given.items()}
    shape = next(iter(parts.values()))["pixel_mask"].shape
    bits = np.bitwise_or.reduce([counters.part_mask(path, shape) for path in given.values()])
    if params.detector is not None:
        gaps = mask_steps.detector_gaps(params.detector, shape)
        # Some programs write zeros into gaps: these pixels are not dead.
        bits[gaps] = np.uint32(MaskBit.GAP)
    if params.image is not None:
        user = mask_images.read_mask_image(str(params.image))
        if user.shape != shape:
            raise HklflowError(
                f"{params.image} has {user.shape} pixels, the detector {shape}; use a mask of "
                "this detector"
            )
        bits[user] |= np.uint32(MaskBit.USER)
    bits = counters.with_clusters(bits)
    quantities = {"pixel_mask": counters.mask_quantity(bits)}
    metrics = {"pixels": bits.size, "numbers": counters.numbers(bits)}
    shown = (bits == 0).astype(float)
    if "flood" in parts:
        quantities |= {n: parts["flood"].quantities[n] for n in ("flatfield", "flatfield_errors")}
        shown = np.nan_to_num(parts["flood"]["flatfield"])
        good = parts["flood"]["flatfield"][bits == 0]
        metrics["flat"] = {
            "standard deviation": float(np.nanstd(good)),
            "median error": float(np.nanmedian(parts["flood"]["flatfield_errors"][bits == 0])),
            "smooth part": parts["flood"].about["large_scale"],
        }
    if "rate" in parts:
        rate = parts["rate"]
        facts = rate.quantities["observed_rate"].attrs
        metrics["rate"] = {name: _plain(value) for name, value in facts.items()}
        quantities["dead_time"] = files.Quantity(np.array(facts["dead_time"]), "s", dict(facts))
        quantities |= {name: rate.quantities[name] for name in ("observed_rate", "true_rate")}
    abouts = {name: part.about for name, part in parts.items()}
    about = {
        "detector": params.detector or "photon counter",
        "counter": True,
        "measures": list(parts),
        "of": abouts,
    }
    with files.create_detector(outputs.constants, "constants of a photon counter", about) as group:
        module = group.create_group(files.module_name(0))
        files.add_quantities(module, files.Constants(about | {"module": 0}, quantities))
        quality = add_group(module, "quality", "NXcollection")
        for name, part in parts.items():
            rest = {n: q for n, q in part.quantities.items() if n not in quantities}
            files.add_quantities(quality, files.Constants(abouts[name], rest))
    stage.write_json(outputs.metrics, metrics)
    title = f"constants of {about['detector']}"
    plots.save(plots.pixel_mask(shown, bits, title), outputs.picture)
    print(", ".join(f"{n} {name}" for name, n in counters.numbers(bits).items()))


def _plain(value: object) -> object:
    return value.item() if hasattr(value, "item") else value


if __name__ == "__main__":
    stage.command(main)
