"""Drawings as a picture or as lines on a terminal: curves, images, masks, planes of volumes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hklflow.plots import planes as pictures
from hklflow.plots import terminal
from hklflow.plots.common import IMAGE, figure_of, log_range
from hklflow.plots.detector import detector_image, pixel_mask
from hklflow.volumes.planes import Cut

Floats = NDArray[np.float64]

_NARROW = 38  # smallest number of columns of a plane next to others


@dataclass(frozen=True)
class Screen:
    """Size of a terminal in characters and lines; ``rich``: it shows colours and Unicode."""

    width: int = 80
    height: int = 24
    rich: bool = False


@dataclass(frozen=True)
class Curve:
    """Curve of values (n,) along an axis; points from rows of a table are not joined by lines."""

    title: str
    x: Floats
    y: Floats
    errors: Floats | None
    x_label: str
    y_label: str
    joined: bool

    def figure(self) -> Figure:
        """Draw the curve as a picture."""
        figure = figure_of(9, 5.5)
        axes = figure.subplots()
        axes.errorbar(
            self.x,
            self.y,
            yerr=None if self.errors is None else np.abs(self.errors),
            fmt="-" if self.joined else "o",
            ms=3,
            lw=1.0,
            capsize=2 if self.errors is not None else 0,
        )
        axes.set(xlabel=self.x_label, ylabel=self.y_label, title=self.title)
        return figure

    def lines(self, screen: Screen) -> list[str]:
        """Draw the curve as text."""
        drawn = terminal.curve_lines(
            self.x,
            self.y,
            self.errors,
            width=screen.width,
            height=screen.height - 4,
            rich=screen.rich,
            joined=self.joined,
        )
        return [self.title, self.y_label, *drawn, f"{self.x_label:>{screen.width}}".rstrip()]


@dataclass(frozen=True)
class Picture:
    """Image (slow, fast) of a detector, or another table of numbers, with the first row on top."""

    title: str
    image: Floats
    label: str

    def figure(self) -> Figure:
        """Draw the image as a picture."""
        return detector_image(self.image, self.title, self.label)

    def lines(self, screen: Screen) -> list[str]:
        """Draw the image as text."""
        slow, fast = self.image.shape
        points = terminal.raster(self.image, screen.width, 2 * (screen.height - 4), upward=False)
        norm = log_range(self.image)
        return [
            self.title,
            *terminal.image_lines(points, norm, IMAGE, screen.rich),
            f"fast 0 to {fast} across, slow 0 to {slow} down (pixel)",
            terminal.bar_line(norm, IMAGE, self.label, screen.rich),
        ]


@dataclass(frozen=True)
class Mask:
    """Mask: bits (slow, fast) of a pixel mask."""

    title: str
    bits: NDArray[np.uint32]

    def figure(self) -> Figure:
        """Draw the mask as a picture."""
        return pixel_mask(np.zeros(self.bits.shape), self.bits, self.title)

    def lines(self, screen: Screen) -> list[str]:
        """Draw the fraction of masked pixels as text."""
        masked = (self.bits != 0).astype(np.float64)
        slow, fast = masked.shape
        points = terminal.raster(masked, screen.width, 2 * (screen.height - 4), upward=False)
        norm = Normalize(0.0, 1.0)
        return [
            self.title,
            *terminal.image_lines(points, norm, "inferno", screen.rich),
            f"fast 0 to {fast} across, slow 0 to {slow} down (pixel); "
            f"{int(masked.sum())} of {masked.size} pixels are masked",
            terminal.bar_line(norm, "inferno", "masked fraction", screen.rich),
        ]


@dataclass(frozen=True)
class Planes:
    """Planes of a volume; see `hklflow.plots.planes.panels` for the attributes."""

    title: str
    cuts: Sequence[Cut]
    metric: Floats
    direct: bool
    diverging: bool
    label: str
    near: float = 1.0
    norm: Normalize | None = None

    def figure(self) -> Figure:
        """Draw the planes as a picture."""
        return pictures.panels(
            self.cuts,
            self.metric,
            self.direct,
            self.diverging,
            self.label,
            self.title,
            self.near,
            self.norm,
        )

    def lines(self, screen: Screen) -> list[str]:
        """Draw the planes as text, with their true angles."""
        norm = self.norm or self._norm()
        cmap = pictures.DIVERGING if self.diverging else IMAGE
        side_by_side = max(1, min(len(self.cuts), screen.width // _NARROW))
        width = (screen.width - 2 * (side_by_side - 1)) // side_by_side
        lines = [self.title]
        for first in range(0, len(self.cuts), side_by_side):
            row = self.cuts[first : first + side_by_side]
            parts = [self._plane(one, width, screen, norm, cmap) for one in row]
            lines += terminal.beside([part for part, _ in parts], [wide for _, wide in parts])
        return [*lines, terminal.bar_line(norm, cmap, self._label, screen.rich)]

    def _norm(self) -> Normalize:
        if self.diverging:
            return pictures.symmetric_range(self.cuts, self.metric, self.direct, self.near)
        return log_range(np.concatenate([one.image.ravel() for one in self.cuts]))

    @property
    def _label(self) -> str:
        return f"{self.label} ({pictures.UNITS[self.direct]})"

    def _plane(
        self, one: Cut, width: int, screen: Screen, norm: Normalize, cmap: str
    ) -> tuple[list[str], int]:
        """Return the lines of a plane, and their width."""
        if not np.isfinite(one.image).any():
            message = f"{one.plane.text}: not measured"
            return [message], len(message)
        spacing = [float(x[1] - x[0]) if len(x) > 1 else 1.0 for x in (one.u, one.v)]
        matrix = one.plane.cartesian(self.metric) * spacing
        points = terminal.raster(one.image, width, 2 * (screen.height - 4), matrix)
        drawn = terminal.image_lines(points, norm, cmap, screen.rich)
        finite = np.isfinite(one.image)
        ends = [
            f"{letter} {values[0]:g} to {values[-1]:g}"
            for letter, values in zip(
                one.plane.letters,
                (one.u[finite.any(axis=0)], one.v[finite.any(axis=1)]),
                strict=True,
            )
        ]
        foot = f"{ends[0]} across, {ends[1]} up"
        wide = max(points.shape[1], len(foot), len(one.plane.text))
        # Pictures to the right must stay aligned, so lines are padded to the width of the text.
        padded = [line + " " * (wide - points.shape[1]) for line in drawn]
        return [one.plane.text, *padded, foot], wide


Drawing = Curve | Picture | Mask | Planes


def save(drawing: Drawing, path: Any) -> None:
    """Write a drawing as PNG."""
    from hklflow.plots.common import save as save_figure

    save_figure(drawing.figure(), path)
