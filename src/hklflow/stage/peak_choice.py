"""Choice of the peaks that index and refine a scan, and the table of peaks that are left out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from hklflow import stage
from hklflow.base.errors import HklflowError
from hklflow.base.names import measured
from hklflow.base.system import require_file
from hklflow.stage import mask_steps
from hklflow.stage.frame_items import FrameItem

COLUMNS = ("sample", "scan", "rotation", "frame", "slow", "fast")
"""Columns that a table of peaks must have; `hklflow peaks list` writes them and more."""


class PeakChoice(stage.Params):
    """Limits of the peaks that take part in indexing and refinement."""

    max_two_theta: float | None = Field(None, gt=0, le=180)
    """Largest scattering angle 2θ of a peak for indexing and refinement, in degrees, in the
    imported geometry. None: all peaks. `converge` and the volumes do not use this limit, nor the
    other limits of peaks in this section."""
    min_q: float | None = Field(None, gt=0)
    """Smallest |Q| of a peak, in 1/Å (2π/d)."""
    max_q: float | None = Field(None, gt=0)
    """Largest |Q| of a peak, in 1/Å (2π/d)."""
    min_intensity: float | None = Field(None, gt=0)
    """Smallest intensity of a peak, in counts above the background."""
    max_intensity: float | None = Field(None, gt=0)
    """Largest intensity of a peak, in counts above the background."""
    use_frames: tuple[FrameItem, ...] = ()
    """Raw frames whose peaks are used, counted from 0: `100-120`, or `r1:100-120` for the rotation
    r1 only. Empty: all frames. A rotation without an item: all frames."""
    leave_out_shapes: tuple[mask_steps.Shape, ...] = ()
    """Regions of the detector whose peaks are left out, written like the shapes of a mask file, in
    pixels of the measured frames."""
    leave_out_peaks: Path | None = None
    """Table of single peaks that are left out: lines of the table that `hklflow peaks list` writes.
    """

    @field_validator("leave_out_shapes")
    @classmethod
    def _can_be_drawn(cls, shapes: tuple[mask_steps.Shape, ...]) -> tuple[mask_steps.Shape, ...]:
        for shape in shapes:
            try:
                mask_steps.core_shape(shape)
            except HklflowError as error:
                raise ValueError(str(error)) from error
        return shapes

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name in ("q", "intensity"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low is not None and high is not None and low >= high:
                raise ValueError(
                    f"min_{name} = {low:g} is not below max_{name} = {high:g}, so no peak is left"
                )
        return self


@dataclass(frozen=True)
class ListedPeak:
    """Peak of a table: its rotation, and its place in raw frames and pixels as measured."""

    sample: str
    scan: str
    rotation: str
    frame: float
    slow: float
    fast: float
    line: int
    """Number of the line in the table, from 1."""

    def is_of(self, sample: str, scan: str) -> bool:
        """Return True if the peak is in the frames of a scan or of an analysis of it."""
        return (self.sample, measured(self.scan)) == (sample, measured(scan))


def read_listed(path: Path) -> list[ListedPeak]:
    """Read a table of peaks: tab-separated, with a header; further columns are ignored.

    Raises
    ------
    HklflowError
        If the file is not such a table; lists all problems, one in each line.
    """
    require_file(path, "the table of peaks", "make one with `hklflow peaks list`")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise HklflowError(f"{path} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise HklflowError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    rows = [
        (number, [cell.strip() for cell in line.split("\t")])
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    ]
    header = rows[0][1] if rows else []
    if missing := [name for name in COLUMNS if name not in header]:
        raise HklflowError(
            f"{path} is no table of peaks: its first line has no column {', '.join(missing)}; "
            "write the table with `hklflow peaks list` and keep its first line"
        )
    problems: list[str] = []
    found = [
        peak
        for number, cells in rows[1:]
        for peak in _listed(dict(zip(header, cells, strict=False)), number, problems)
    ]
    if problems:
        listed = "\n  ".join(problems)
        raise HklflowError(f"{path}: {len(problems)} lines are no peaks:\n  {listed}")
    return found


def _listed(row: dict[str, str], line: int, problems: list[str]) -> Iterator[ListedPeak]:
    import math

    try:
        frame, slow, fast = (float(row[name]) for name in COLUMNS[3:])
        if not all(map(math.isfinite, (frame, slow, fast))):
            raise ValueError
    except (KeyError, ValueError):
        row_text = ", ".join(f"{name} {row.get(name, '')!r}" for name in COLUMNS[3:])
        problems.append(f"line {line}: {row_text}: give three numbers")
        return
    yield ListedPeak(row["sample"], row["scan"], row["rotation"], frame, slow, fast, line)
