"""One way to read raw frames and what their files say, whatever the format.

`open_frames` gives frames as blocks, `read_header` gives the geometry and the
measurement as far as the file states them: a field that is None is not in the file.
"""

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from hklflow.base.errors import HklflowError
from hklflow.base.system import require_file
from hklflow.geometry import Detector, Goniometer
from hklflow.images.pixel_binning import PixelBinning
from hklflow.images.scan import RotationScan

if TYPE_CHECKING:
    from hklflow.formats.bands import Band, PackedFrames

HDF5_SUFFIXES = {".h5", ".hdf5", ".nxs", ".nx5", ".nexus", ".hdf"}
IMAGE_SUFFIXES = {".cbf", ".tif", ".tiff", ".img", ".edf"}

#: Pixels of a frame: more than any detector has. A damaged header may claim any number.
MOST_PIXELS = 200_000_000

Raw = str | Path | Sequence[str | Path]


class Frames(ABC):
    """The frames of one rotation, read in blocks; a context manager.

    Attributes
    ----------
    shape : (n, slow, fast)
    dtype : numpy dtype
        Of the pixels as stored.
    files : list of Path
        Every file the frames come from, in order (for hashes and provenance).
    dataset : (file, path in file) or None
        The one HDF5 dataset that holds all frames, where there is one (for links).
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    files: list[Path]
    dataset: tuple[Path, str] | None = None

    @abstractmethod
    def _read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames start..stop, with 0 <= start < stop <= n."""

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Frames ``start <= z < stop`` as an array (stop - start, slow, fast).

        Raises
        ------
        HklflowError
            If frames outside the scan are asked for, or a file is missing,
            truncated or of another shape; it names the file and the frame.
        """
        self._require_within(start, stop)
        if start == stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return self._read(start, stop)

    def blocks(self, size: int, first: int = 0, last: int | None = None) -> Iterator[NDArray[Any]]:
        """Frames first..last (exclusive) in order, at most `size` at a time."""
        _require_size(size)
        stop = self.shape[0] if last is None else last
        for start in range(first, stop, size):
            yield self.read(start, min(start + size, stop))

    def stream(
        self, size: int, first: int = 0, last: int | None = None, *, threads: int = 1
    ) -> Generator[NDArray[Any], None, None]:
        """Give the frames of `blocks`, but fast: a block lasts only until the next is asked for.

        Parameters
        ----------
        size : int
            Frames at a time.
        first, last : int
            Frames first..last (exclusive); None is the end.
        threads : int
            1: the calling thread decodes. More: so many threads decode the next block while
            the caller works on this one. Close the iterator, or let go of it, where it is
            left before its end.

        Returns
        -------
        iterator of (at most `size`, slow, fast) arrays
            C-contiguous, of `dtype`. Their memory is used again.

        Raises
        ------
        HklflowError
            If `size` or `threads` is below 1; else as `read`.
        """
        from hklflow.formats.stream import stream

        stop = self._begin(size, first, last, threads)
        return stream(self, size, first, stop, threads)

    def bands(
        self, size: int, first: int = 0, last: int | None = None, *, threads: int = 1
    ) -> "Generator[Band, None, None]":
        """Give the frames of `stream` in bands of rows that fit into the processor's cache.

        Parameters
        ----------
        size, first, last, threads
            As for `stream`.

        Returns
        -------
        iterator of Band
            Block after block, from the first row to the last. A band's counts last until the
            next one is asked for.

        Raises
        ------
        HklflowError
            As `stream`.
        """
        from hklflow.formats.bands import bands

        stop = self._begin(size, first, last, threads)
        return bands(self, size, first, stop, threads)

    def _begin(self, size: int, first: int, last: int | None, threads: int) -> int:
        """Check what `stream` and `bands` are asked for, and get ready; gives the end."""
        _require_size(size)
        if threads < 1:
            raise HklflowError(f"frames cannot be read by {threads} threads; use 1 or more")
        stop = self.shape[0] if last is None else last
        self._require_within(first, stop)
        self._prepare()
        return stop

    def _require_within(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.shape[0]:
            raise HklflowError(
                f"frames {start} to {stop} are not within the {self.shape[0]} frames of "
                f"{self.files[0]}; check the frame range"
            )

    # For `stream`; formats that can do better do.

    def _prepare(self) -> None:  # noqa: B027
        """Get ready for `_fill` in several threads."""

    def _fill(self, start: int, stop: int, out: NDArray[Any]) -> None:
        """Put frames start..stop, as of `_read`, into `out`; from several threads at once."""
        for frame in range(start, stop):
            out[frame - start] = self._read(frame, frame + 1)[0]

    def _pack(
        self, start: int, stop: int, memory: NDArray[np.uint8]
    ) -> "tuple[PackedFrames | None, NDArray[np.uint8]]":
        """Frames that can be decoded by rows, in this memory or more; None: they can't."""
        return None, memory

    def _told(self) -> AbstractContextManager[None]:
        """Within it, what is wrong with a frame of `_pack` is told as `read` tells it."""
        return nullcontext()

    def _announce(self, start: int, stop: int) -> None:  # noqa: B027
        """Tell the kernel that the bytes of these frames will be read next."""

    def close(self) -> None:  # noqa: B027  (most formats keep nothing open)
        """Close what is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def require_frame_size(shape: Sequence[int], what: str) -> None:
    """Refuse frames that are larger than any detector, before there is memory for them.

    Raises
    ------
    HklflowError
        It begins with ``what``.
    """
    if math.prod(shape) > MOST_PIXELS:
        raise HklflowError(
            f"{what} has frames of {' x '.join(map(str, shape))} pixels, more than "
            f"{MOST_PIXELS}; the file is damaged or holds something else"
        )


def _require_size(size: int) -> None:
    if size < 1:
        raise HklflowError(f"a block of {size} frames is empty; use a size of 1 or more")


@dataclass(frozen=True)
class Header:
    """What a raw file says about itself; None means that it does not say.

    Attributes
    ----------
    wavelength : float or None
        Å.
    detector : Detector or None
        In the lab frame of `geometry.frames`.
    goniometer : Goniometer or None
        In the lab frame.
    start_deg, step_deg : float or None
        Scan-axis angle at the start of frame 0, and width of a frame; degrees.
    angles_deg : (n,) array or None
        Angle at the start of each frame, where they are not evenly spaced.
    n_frames : int or None
    exposure_time : float or None
        Seconds per frame.
    monitor : (n,) array or None
        Counts per frame.
    monitor_doubt : str or None
        Why the file's monitor is not to be used, and what to do.
    transmission : float or (n,) array or None
        Of the attenuator, 0 to 1.
    temperature : float or None
        Of the sample, kelvin.
    temperature_doubt : str or None
        Why the file's temperature is not to be believed, and what to do.
    pixel_mask : (slow, fast) bool array or None
        True where the pixel is bad.
    saturation : float or None
        Largest count that can be trusted.
    saturation_doubt : str or None
        Why the file's saturation is not to be used, and what to do.
    underload : float or None
        Smallest value that is a measurement, of frames of floating point.
    read_variance : (slow, fast) array or None
        Variance of the read noise in photons², where values are photons and read noise.
    polarization : float or None
        Fraction of the intensity with the electric vector along lab x.
    sensor_material : str or None
    binning : PixelBinning or None
        How hklflow summed the pixels in blocks; detector, mask and noise are those of the sums.
    """

    wavelength: float | None = None
    detector: Detector | None = None
    goniometer: Goniometer | None = None
    start_deg: float | None = None
    step_deg: float | None = None
    angles_deg: NDArray[np.float64] | None = None
    n_frames: int | None = None
    exposure_time: float | None = None
    monitor: NDArray[np.float64] | None = None
    monitor_doubt: str | None = None
    transmission: float | NDArray[np.float64] | None = None
    temperature: float | None = None
    temperature_doubt: str | None = None
    pixel_mask: NDArray[np.bool_] | None = None
    saturation: float | None = None
    saturation_doubt: str | None = None
    underload: float | None = None
    read_variance: NDArray[np.float64] | None = None
    polarization: float | None = None
    sensor_material: str | None = None
    binning: PixelBinning | None = None


def is_hdf5(raw: Raw) -> bool:
    """Whether `raw` names one HDF5 file, by its suffix."""
    return isinstance(raw, (str, Path)) and Path(raw).suffix.lower() in HDF5_SUFFIXES


def open_frames(raw: Raw) -> Frames:
    """Open the frames of one rotation.

    Parameters
    ----------
    raw : path, pattern or list of paths
        An HDF5 file (NXmx or Eiger master, a plain stack, or a light scan file that links
        frames), or images (CBF, TIFF, SMV,
        EDF): one file, a list, a glob (``scan_*.cbf``), a template
        (``scan_####.cbf``) or a printf pattern (``scan_%05d.tif``).

    Raises
    ------
    HklflowError
        If there is no such file, or frames are missing from the series.
    """
    from hklflow.formats.images import ImageSeries
    from hklflow.formats.light import images_of

    if is_hdf5(raw):
        images = images_of(Path(str(raw)))
        if images is None:
            from hklflow.formats.nxframes import NexusFrames

            return NexusFrames(Path(str(raw)))
        raw = images
    return ImageSeries(raw)


def open_scan(scan: RotationScan) -> Frames:
    """Open the frames of a scan; in those that are left out every pixel is flagged.

    Raises
    ------
    HklflowError
        As for `open_frames`.
    """
    frames = open_frames(scan.raw)
    if not scan.left_out:
        return frames
    from hklflow.formats.left_out import PartlyLeftOut

    return PartlyLeftOut(frames, scan.left_out)


def read_header(raw: Raw) -> Header:
    """Read what the raw files say about geometry and measurement.

    Parameters
    ----------
    raw : path, pattern or list of paths
        As for `open_frames`.
    """
    if is_hdf5(raw):
        from hklflow.formats.nxmx import read_nexus_header

        header = read_nexus_header(Path(str(raw)))
    else:
        from hklflow.formats.images import read_image_header

        header = read_image_header(raw)
    return _without_zero(header)


def _without_zero(header: Header) -> Header:
    """Header without a saturation of 0 counts: writers put it in where nobody told them any.

    From 0 counts on every pixel would be saturated.
    """
    if header.saturation != 0:
        return header
    return replace(
        header,
        saturation=None,
        saturation_doubt="the saturation of 0 counts in the raw file is taken as not given, so "
        "that no pixel is known to be saturated: set `import_scan: saturation` if it is known",
    )


def read_variance(scan: RotationScan) -> NDArray[np.float32] | None:
    """Variance of the read noise (slow, fast) in photons², of an integrating detector's frames.

    None where photons are counted. In pixels that are not to be used it is 0.
    """
    # Photon counters' files are not opened for it.
    found = read_header(scan.raw).read_variance if scan.underload < 0 else None
    return None if found is None else found.astype(np.float32)


def find_files(raw: Raw, *, gaps: bool = False) -> list[Path]:
    """Files of an image series in order of their numbers, checked to be complete.

    A list is taken in the order given. In a glob the last group of digits of the
    file's name is its number. With ``gaps`` numbers may be missing.

    Raises
    ------
    HklflowError
        If nothing matches, numbers are missing or occur twice (it lists them), or a
        listed file does not exist.
    """
    if not isinstance(raw, (str, Path)):
        files = [Path(one) for one in raw]
        absent = [str(path) for path in files if not path.is_file()]
        if not files or absent:
            what = f"{absent[0]} does not exist" if absent else "the list of images is empty"
            raise HklflowError(f"{what} ({len(absent)} of {len(files)} absent); check the paths")
        return files
    text = str(raw)
    path = Path(text)
    template = number_pattern(path.name)
    if template is None:
        require_file(path, "raw file", "check the path in scans.tsv")
        return [path]
    return [path.parent / name for name in find_names(text, gaps=gaps)]


def find_names(pattern: str, *, gaps: bool = False) -> list[str]:
    """Names of the images of a series in its folder; as `find_files`, without making paths.

    There may be thousands of images in each of thousands of scans.

    Raises
    ------
    HklflowError
        As `find_files`.
    """
    path = Path(pattern)
    folder, template = path.parent, number_pattern(path.name)
    assert template is not None
    if not folder.is_dir():
        raise HklflowError(
            f"folder {folder} of the images {pattern} does not exist; check the path"
        )
    numbered: dict[int, str] = {}
    stems: set[tuple[str, str]] = set()
    with os.scandir(folder) as entries:
        found = [(entry, match) for entry in entries if (match := template.fullmatch(entry.name))]
    for entry, match in found:
        name = entry.name
        if not entry.is_file():
            require_file(folder / name, "image", "copy it again")
        start, stop = match.span("number")
        number = int(name[start:stop])
        stems.add((name[:start], name[stop:]))
        if number in numbered:
            first, second = sorted((numbered[number], name))
            raise HklflowError(
                f"{pattern} matches number {number} twice: {first} and {second}; make the pattern "
                "narrower"
            )
        numbered[number] = name
    if not numbered:
        raise HklflowError(f"no file matches {pattern}; check the pattern")
    if len(stems) > 1:
        names = ", ".join(f"{first}...{last}" for first, last in sorted(stems))
        raise HklflowError(f"{pattern} matches several series ({names}); make the pattern narrower")
    present = sorted(numbered)
    if not gaps and len(present) <= present[-1] - present[0]:
        missing = sorted(set(range(present[0], present[-1] + 1)) - set(present))
        shown = ", ".join(map(str, missing[:10])) + (" ..." if len(missing) > 10 else "")
        raise HklflowError(
            f"{len(missing)} of the images {pattern} between numbers {present[0]} and "
            f"{present[-1]} are missing: {shown}; copy them again or split the scan"
        )
    return [numbered[number] for number in present]


def number_pattern(name: str) -> re.Pattern[str] | None:
    """Pattern of the file names with the group `number`; None for a plain file name."""
    if hashes := re.search(r"#+", name):
        digits = rf"(?P<number>\d{{{len(hashes[0])},}})"
        return re.compile(
            re.escape(name[: hashes.start()]) + digits + re.escape(name[hashes.end() :])
        )
    if printf := re.search(r"%(0?)(\d*)d", name):
        width = int(printf[2] or 1)
        return re.compile(
            re.escape(name[: printf.start()])
            + rf"(?P<number>\d{{{width},}})"
            + re.escape(name[printf.end() :])
        )
    if any(mark in name for mark in "*?["):
        import fnmatch

        # The last group of digits in the stem, of a name that matches the glob.
        matched = fnmatch.translate(name)
        return re.compile(rf"(?={matched})(?:.*\D)?(?P<number>\d+)[^\d.]*(?:\.[^.]+)+?")
    return None
