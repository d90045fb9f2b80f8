"""Integrating detectors with automatic gain: the sizes of their modules and ASICs.

All images of a module are stored as the European XFEL stores them, (ss, fs): slow scan, fast
scan. ASICs are counted along fs first.
"""

from dataclasses import dataclass, replace

from hklflow.base.errors import HklflowError

Size = tuple[int, int]

STAGES = ("high", "medium", "low")
"""Gain stages in the order of all arrays: from the most to the least sensitive."""


@dataclass(frozen=True)
class Integrating:
    """An integrating detector with three stages of gain.

    Attributes
    ----------
    name : str
    module, asic : (ss, fs)
        Sizes in pixels.
    codes : tuple of int or None
        Values of the gain bits for high, medium, low; None if the gain is an analogue level,
        which needs thresholds.
    saturation : float
        ADU from which a value is saturated.
    memory_cells : int or None
        Memory cells that a trigger fills, for layouts that do not store this number.
    """

    name: str
    module: Size
    asic: Size
    codes: tuple[int, int, int] | None
    saturation: float
    memory_cells: int | None = None

    @property
    def asics(self) -> int:
        """Number of ASICs of a module."""
        return (self.module[0] // self.asic[0]) * (self.module[1] // self.asic[1])

    def box(self, asic: int) -> tuple[slice, slice]:
        """Return the pixels (ss, fs) of an ASIC in its module.

        Raises
        ------
        HklflowError
            If the module has no such ASIC.
        """
        if not 0 <= asic < self.asics:
            raise HklflowError(
                f"a module of {self.name} has no ASIC {asic}; the ASICs are 0 to {self.asics - 1}"
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


def integrating(
    name: str,
    module: Size | None = None,
    asic: Size | None = None,
    memory_cells: int | None = None,
) -> Integrating:
    """Return the detector of this name, or a similar one with other module and ASIC sizes.

    Raises
    ------
    HklflowError
        If the name is unknown, or a module does not consist of whole ASICs.
    """
    if name not in DETECTORS:
        raise HklflowError(f"unknown integrating detector {name!r}; use {', '.join(DETECTORS)}")
    known = DETECTORS[name]
    detector = replace(
        known,
        module=module or known.module,
        asic=asic or known.asic,
        memory_cells=memory_cells,
    )
    for whole, part in zip(detector.module, detector.asic, strict=True):
        if part < 1 or whole < 1 or whole % part:
            raise HklflowError(
                f"{name}: a module of {detector.module} pixels cannot be divided into ASICs of "
                f"{detector.asic}; enter sizes (ss, fs) that divide evenly"
            )
    return detector
