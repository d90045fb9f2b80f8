"""Combine the measurements of one ASIC: offset, noise and gain of every gain stage."""

import math
from pathlib import Path

from pydantic import Field, field_validator

from hklflow import stage

VERSION = 1


class Inputs(stage.Inputs):
    dark: Path
    """Processed darks."""
    xray: Path | None = None
    """Processed X-ray fluorescence."""
    pulse_capacitor: Path | None = None
    """Processed pulse capacitor."""
    current_source: Path | None = None
    """Merged current source."""
    gain_map: Path | None = None
    """Gains in ADU/keV from another source, for stages that were not measured: .npy, .bin of
    doubles (PSI) or HDF5, with planes high, medium, low of one module or of all modules stacked."""


class Outputs(stage.Outputs):
    constants: Path
    """Combined constants."""


class Settings(stage.Params):
    """Settings of this stage in the configuration file."""

    default_gain: tuple[float, float, float] | None = None
    """Gain of high, medium and low in ADU/keV, for stages without a measurement and without a gain
    map. The constants name the source of such a gain `default`. None: such gains are unknown.
    """

    @field_validator("default_gain", mode="after")
    @classmethod
    def _is_a_gain(
        cls, value: tuple[float, float, float] | None
    ) -> tuple[float, float, float] | None:
        if value is not None and not all(math.isfinite(gain) and gain != 0 for gain in value):
            raise ValueError(
                f"{list(value)} are not gains; enter three finite numbers that are not 0"
            )
        return value


class Params(Settings):
    """Settings of the stage, and the size of modules."""

    module_size: tuple[int, int] | None = Field(None)
    """Pixels (ss, fs) of a module; None: the detector's default."""


def main(*, inputs: Inputs, outputs: Outputs, params: Params, threads: int = 1) -> None:
    """Combine the measurements, and report the source of each gain."""
    import numpy as np

    from hklflow.constants import files
    from hklflow.constants.combine import combine
    from hklflow.constants.detectors import STAGES, integrating
    from hklflow.constants.gain_maps import read_gain_map

    dark = files.read_part(inputs.dark)
    others = {
        name: files.read_part(path)
        for name in ("xray", "pulse_capacitor", "current_source")
        if (path := getattr(inputs, name)) is not None
    }
    known = None
    if inputs.gain_map is not None:
        size = dark["offset"].shape[-2:]
        detector = integrating(dark.about["detector"], params.module_size, size)
        known = read_gain_map(inputs.gain_map, detector, dark.about["module"], dark.about["asic"])
    combined = combine(dark, **others, gain_map=known, default_gain=params.default_gain)
    files.write_part(outputs.constants, "combined constants", combined)
    for name, source, gain in zip(
        STAGES, combined.about["gain_source"], combined["gain"], strict=True
    ):
        finite = gain[np.isfinite(gain)]
        middle = f"median {np.median(finite):.5g} ADU/keV" if finite.size else "unknown"
        print(f"gain of {name}: {middle}, from {source}")


if __name__ == "__main__":
    stage.command(main)
