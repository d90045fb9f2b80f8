"""Course of the transmission of a rotation: settings, and the signal that it is found from."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from hklflow import stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hklflow.images.frame_scale import Transmission

_WINDOW = 31


class Curve(stage.Params):
    """Settings of the course of the transmission."""

    source: Literal["background", "frame_sum", "none"] = "background"
    """Signal from which the transmission of the sample is estimated. `background`: the level
    between the Bragg peaks. `frame_sum`: all good pixels, with Bragg peaks. `none`: the
    transmission is 1 (for few frames, or no background).
    """
    smooth: bool = True
    """Fit a smooth curve to the frames' values; False: each frame keeps its own value."""
    window: int | None = Field(None, ge=5)
    """Odd number of frames over which the curve is smooth; the transmission should change little in
    half of them. None: 31, or as many as the rotation has; with fewer than 5, each frame keeps its
    own value."""

    def frames_of_window(self, n_frames: int) -> int | None:
        """Return the frames over which the curve is smooth; None: no smooth curve.

        Raises
        ------
        HklflowError
            If the given window does not fit the number of frames.
        """
        from hklflow.images import frame_scale

        if not self.smooth or self.source == "none":
            return None
        if self.window is not None:
            frame_scale.require_window(self.window, n_frames)
            return self.window
        longest = min(_WINDOW, n_frames - 1 + n_frames % 2)
        return longest if longest >= 5 else None


class Signal(NamedTuple):
    """Signal of the frames of a rotation.

    Attributes
    ----------
    values : (n_frames,) array
        Counts per pixel; NaN for frames without a value.
    incident : (n_frames,) array
        Monitor times attenuation.
    absorption : (n_frames,) array or None
        Mean transmission of each frame by the crystal's shape; None: the shape is not given.
    """

    values: "NDArray[np.float64]"
    incident: "NDArray[np.float64]"
    absorption: "NDArray[np.float64] | None"

    def transmission(
        self, curve: Curve, surroundings: "NDArray[np.float64] | float" = 0.0
    ) -> "Transmission":
        """Estimate the transmission, apart from the absorption by the crystal's shape.

        Parameters
        ----------
        surroundings : (n_frames,) array
            Counts per pixel, for an incident intensity of 1, that are not from the crystal.
        """
        from hklflow.images import frame_scale

        incident = self.incident if self.absorption is None else self.incident * self.absorption
        if curve.source == "none":
            return frame_scale.constant(incident)
        window = curve.frames_of_window(len(self.values))
        return frame_scale.transmission(self.values, incident, window, self.incident * surroundings)


def read_signal(scan_path: Path, statistics: Path, absorption: Path | None, curve: Curve) -> Signal:
    """Read the signal of a rotation.

    Raises
    ------
    HklflowError
        If the statistics are for another number of frames.
    """
    import numpy as np

    from hklflow import nexus
    from hklflow.base.errors import HklflowError

    scan = nexus.read_scan(scan_path)
    incident = scan.monitor * scan.attenuation
    values = nexus.read_statistics(statistics, "background")
    if len(values) != len(incident):
        raise HklflowError(
            f"{statistics} has {len(values)} frames, but {scan_path} has {len(incident)}; make "
            "the frame statistics again"
        )
    if curve.source == "frame_sum":
        pixels = nexus.read_statistics(statistics, "pixels")
        # A frame with only flagged pixels has no value.
        values = nexus.read_statistics(statistics, "frame_sum")
        values = values / np.where(pixels > 0, pixels, np.nan)
    name = scan_path.absolute().parent.name
    shape = None if absorption is None else nexus.read_absorption(absorption, name)[0]
    return Signal(values, incident, shape)
