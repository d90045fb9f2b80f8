"""Integrating detectors with automatic gain: how their modules are divided.

All images of a module are in the order in which the European XFEL stores it, (ss, fs): slow scan,
fast scan. ASICs are counted along fs first.
"""

from dataclasses import dataclass, replace

from hklflow.base.errors import HklflowError

Size = tuple[int, int]

STAGES = ("high", "medium", "low")
"""Stages of gain, in the order of all arrays: from the most to the least sensitive."""


@dataclass(frozen=True)
class Integrating:
    """An integrating detector with three stages of gain.

    Attributes
    ----------
    name : str
    module, asic : (ss, fs)
        Sizes in pixels.
    codes : tuple of int or None
        What the gain bits of stages high, medium, low are, where they are digital; None where
        the gain is an analogue level that needs thresholds.
    saturation : float
        ADU from which a value is not to be believed.
    """

    name: str
    module: Size
    asic: Size
    codes: tuple[int, int, int] | None
    saturation: float

    @property
    def asics(self) -> int:
        """ASICs of a module."""
        return (self.module[0] // self.asic[0]) * (self.module[1] // self.asic[1])

    def box(self, asic: int) -> tuple[slice, slice]:
        """Pixels (ss, fs) of an ASIC in its module.

        Raises
        ------
        HklflowError
            If the module has no such ASIC.
        """
        if not 0 <= asic < self.asics:
            raise HklflowError(
                f"a module of {self.name} has no ASIC {asic}; they are 0 to {self.asics - 1}"
            )
        row, column = divmod(asic, self.module[1] // self.asic[1])
        return (
            slice(row * self.asic[0], (row + 1) * self.asic[0]),
            slice(column * self.asic[1], (column + 1) * self.asic[1]),
        )


DETECTORS = {
    "agipd": Integrating("agipd", (512, 128), (64, 64), None, 16383),
    "jungfrau": Integrating("jungfrau", (512, 1024), (256, 256), (0, 1, 3), 16383),
}


def integrating(name: str, module: Size | None = None, asic: Size | None = None) -> Integrating:
    """Detector of a name, or one like it with modules and ASICs of another size.

    Raises
    ------
    HklflowError
        If the name is unknown, or modules are not whole ASICs.
    """
    if name not in DETECTORS:
        raise HklflowError(
            f"{name!r} is no integrating detector that is known; use {', '.join(DETECTORS)}"
        )
    known = DETECTORS[name]
    found = replace(known, module=module or known.module, asic=asic or known.asic)
    for whole, part in zip(found.module, found.asic, strict=True):
        if part < 1 or whole < 1 or whole % part:
            raise HklflowError(
                f"{name}: a module of {found.module} pixels is not divided by ASICs of "
                f"{found.asic}; give sizes (ss, fs) that divide"
            )
    return found
