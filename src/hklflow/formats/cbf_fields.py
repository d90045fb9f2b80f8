"""Text of a CBF before its pixels, and the fields of its text header (PILATUS, EIGER)."""

import bz2
import gzip
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hklflow.base.errors import HklflowError
from hklflow.formats.imgcif import plain_name
from hklflow.formats.instruments import Instrument
from hklflow.formats.text_headers import NUMBER, length_in_metres

MOTORS = ("omega", "chi", "kappa", "phi")

_LONGEST = 1 << 20  # bytes of a header
_PIXELS = b"\x0c\x1a\x04\xd5"
_COMMENTS = {"This", "Template", "CBF_template_file"}
_USED = {"Detector", "Pixel_size", "Exposure_time", "Count_cutoff", "Wavelength", "Beam_xy"}
_USED |= {"Detector_distance", "Flux", "Filter_transmission", "Start_angle", "Angle_increment"}
_USED |= {"Detector_2theta", "Polarization", "Oscillation_axis", "Alpha"}
_USED |= {name for motor in MOTORS for name in (motor.title(), f"{motor.title()}_increment")}


def head(path: Path) -> str:
    """Return the text of a CBF before its pixels, also of a compressed file."""
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
    text = b""
    try:
        with openers.get(path.suffix.lower(), open)(path, "rb") as file:
            while _PIXELS not in text and len(text) < _LONGEST:
                part = file.read(16384)
                if not part:
                    break
                text += part
    except (OSError, EOFError) as error:
        raise HklflowError(
            f"the header of {path} cannot be read ({error}); the file is damaged: copy it again"
        ) from error
    return text.partition(_PIXELS)[0].decode("latin-1").replace("\r\n", "\n")


@dataclass(frozen=True)
class Fields:
    """Fields of the text header of one image.

    Attributes
    ----------
    text : str
        Whole text of the file before its pixels.
    path : Path
        The file, for messages.
    """

    text: str
    path: Path

    @property
    def block(self) -> str:
        """The lines of the text header, without imgCIF."""
        contents = self.text.partition("_array_data.header_contents")[2] or self.text
        return re.split(r"\n(?=_|loop_|--CIF)", contents)[0]

    def line(self, key: str) -> str | None:
        """Return the text behind a key; None if the header does not have it."""
        match = re.search(rf"^#?\s*{key}\s*[:=]?\s+(.*)$", self.block, re.MULTILINE)
        return None if match is None else match[1].strip()

    def number(self, key: str) -> float | None:
        """Return the value of a line ``# Key value unit``; None if it is absent or "not set"."""
        match = re.match(NUMBER, self.line(key) or "")
        return None if match is None else float(match[0])

    def length(self, key: str) -> float | None:
        """Return a length in metres; None if it is absent or "not set"."""
        match = re.match(rf"({NUMBER})\s*(\S*)", self.line(key) or "")
        if match is None:
            return None
        return length_in_metres(match[1], match[2].strip("().,"), self.path)

    def motors(self, suffix: str = "") -> dict[str, float]:
        """Return the angles of the goniometer's motors, or their increments, degrees."""
        values = {name: self.number(f"(?i:{name}){suffix}") for name in MOTORS}
        return {name: value for name, value in values.items() if value is not None}

    def settings(self, row: Instrument | None = None) -> dict[str, float]:
        """Return the motors that exist: a header may have columns of another goniometer.

        Zero kappa and alpha beside chi are an Eulerian cradle; with alpha, chi is no motor.
        """
        motors, alpha = self.motors(), self.number("Alpha") or 0.0
        if row is not None and row.chi_is_omega and alpha and "chi" in motors:
            motors["omega"] = motors.pop("chi")
        if "chi" in motors and "kappa" in motors:
            if alpha == 0 and motors["kappa"] == 0:
                del motors["kappa"]
            elif alpha != 0 and motors["chi"] == 0:
                del motors["chi"]
        return motors

    def scanned(self) -> str | None:
        """Return the name of the scanned motor; None if the header does not name it.

        Raises
        ------
        HklflowError
            If several motors move.
        """
        moving = [name for name, step in self.motors("_increment").items() if step]
        if len(moving) > 1:
            raise HklflowError(
                f"{', '.join(moving)} move during the scan, as the header of {self.path} says; "
                "hklflow reduces scans of one axis"
            )
        word = plain_name((self.line("Oscillation_axis") or "").split(" ")[0])
        # `X.CW` and `X, CW` are directions, which camserver writes whatever moves.
        return word if word in MOTORS else (moving[0] if moving else None)

    def unused(self) -> list[str]:
        """Return the fields that hklflow does not use, with their values."""
        fields = re.findall(r"^#\s*([A-Z]\w*)\s*[:=]?\s+(.*)$", self.block, re.MULTILINE)
        listed = [
            f"{key} {value.strip()}"
            for key, value in fields
            if key not in _USED | _COMMENTS and "sensor, thickness" not in value
        ]
        offset = self.number("Detector_Voffset")
        return [text for text in listed if offset or not text.startswith("Detector_Voffset")]
