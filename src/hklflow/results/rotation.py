"""One rotation of a scan: its frames, masks, found peaks and predicted spots.

Frames are numbered from 0, the first frame that is used; the middle of frame z is z + 0.5, and
pixel (0, 0) reaches from 0 to 1, as in `hklflow.geometry.frames`.
"""

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hklflow.base.errors import HklflowError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from numpy.typing import NDArray

    from hklflow.geometry import Rotation
    from hklflow.images.scan import RotationScan
    from hklflow.orientation.product import Orientation

    Floats = NDArray[np.float64]

#: Products from which a `MeasuredRotation` reads, relative to its folder.
PRODUCTS = ("scan.nxs", "mask.nxs", "frame_mask.nxs", "peaks.nxs", "statistics.nxs")
ORIENTATION = "orientation.json"
_BLOCK = 4  # frames that are read at a time


class MeasuredRotation:
    """Frames, masks and peaks of one rotation, as far as its products exist.

    Attributes
    ----------
    scan : RotationScan
        Geometry as imported, monitor and raw files.
    geometry : Rotation
        Refined geometry; as imported if the scan is not refined.
    orientation : Orientation or None
        Orientation of the scan; None if the scan is not refined.

    Raises
    ------
    HklflowError
        If the rotation is not imported.
    """

    def __init__(self, folder: Path, base: Path) -> None:
        from hklflow import nexus, stage

        self._folder = folder
        if not self._path("scan.nxs").is_file():
            raise HklflowError(
                f"{self._path('scan.nxs')} is not there yet; run `snakemake` to import the rotation"
            )
        scan = nexus.read_scan(self._path("scan.nxs"))
        # Raw paths are relative to the folder of the experiment.
        self.scan: RotationScan = replace(scan, raw=str(base / scan.raw))
        path = folder.parent / ORIENTATION
        self.orientation: Orientation | None = (
            stage.read_orientation(path) if path.is_file() else None
        )
        if self.orientation is not None and folder.name not in self.orientation.rotations:
            self.orientation = None
        self.geometry: Rotation = (
            self.scan.rotation
            if self.orientation is None
            else self.orientation.rotation(folder.name)
        )

    def __repr__(self) -> str:
        n_slow, n_fast = self.shape
        lattice = "not refined" if self.orientation is None else "refined"
        return f"<{self.n_frames} frames of {n_slow} x {n_fast} pixels, {lattice}>"

    def _path(self, name: str) -> Path:
        return self._folder / name

    @property
    def n_frames(self) -> int:
        """Number of frames that are used."""
        return self.scan.rotation.scan.n_frames

    @property
    def shape(self) -> tuple[int, int]:
        """Number of pixels along slow and fast."""
        return self.scan.rotation.detector.shape

    @cached_property
    def mask(self) -> "NDArray[np.uint32]":
        """Bits of the pixel mask (slow, fast), 0 for good pixels; see `hklflow.images.masks`."""
        import numpy as np

        from hklflow import nexus

        path = self._path("mask.nxs")
        return nexus.read_mask(path) if path.is_file() else np.zeros(self.shape, np.uint32)

    def excluded(self, first: int, n: int = 1) -> "NDArray[np.bool_]":
        """Return pixels (slow, fast) that the 3-D mask excludes in any of n frames."""
        import numpy as np

        from hklflow import nexus

        self._require(first, n)
        path = self._path("frame_mask.nxs")
        if not path.is_file():
            return np.zeros(self.shape, bool)
        with nexus.open_frame_mask(path) as bits:
            if not bits.any(first, first + n):
                return np.zeros(self.shape, bool)
            packed = np.bitwise_or.reduce(bits[first : first + n], axis=0)
        return np.unpackbits(packed, axis=-1, count=self.shape[1]).astype(bool)

    def image(
        self, first: int, n: int = 1, how: Literal["sum", "maximum"] = "sum"
    ) -> "xr.DataArray":
        """Return the sum, or the largest counts, of n frames.

        Pixels that the detector flagged in any of the frames are NaN. Frames that the import left
        out, and frames without a valid pixel, add nothing.

        Parameters
        ----------
        first : int
            Number of the first frame.
        n : int
            Number of frames.
        how : str

        Returns
        -------
        DataArray (slow, fast)
            ``attrs["frames"]`` is the number of frames with valid pixels.

        Raises
        ------
        HklflowError
            If there are no such frames, or raw files cannot be read.
        """
        import numpy as np

        from hklflow.formats import raw
        from hklflow.images import masks

        self._require(first, n)
        counts, bad, used = np.zeros(self.shape), np.zeros(self.shape, bool), 0
        start = self.scan.first + first
        with raw.open_scan(self.scan) as frames:
            flag = masks.flag_value(frames.dtype)
            for block in frames.blocks(_BLOCK, start, start + n):
                for frame in block:
                    flagged = masks.flagged(frame, flag, self.scan.underload)
                    if flagged.all():
                        continue
                    values = np.where(flagged, 0, frame).astype(np.float64)
                    bad |= flagged
                    # The largest value of a first frame may be below 0, with read noise.
                    counts = (
                        np.maximum(counts, values) if how == "maximum" and used else counts + values
                    )
                    used += 1
        counts[bad if used else ...] = np.nan
        return self._labelled(counts, frames=used)

    def overall(self, how: Literal["sum", "maximum"] = "maximum") -> "xr.DataArray":
        """Return the sum, or the largest counts, of all frames, from the frame statistics.

        Raises
        ------
        HklflowError
            If the statistics do not exist yet.
        """
        from hklflow import nexus

        path = self._path("statistics.nxs")
        if not path.is_file():
            raise HklflowError(
                f"{path} is not there yet; run `snakemake`, which sums the frames in `find_peaks`"
            )
        name = "summed" if how == "sum" else how
        return self._labelled(nexus.read_statistics(path, name), frames=self.n_frames)

    def _labelled(self, counts: "NDArray[Any]", frames: int) -> "xr.DataArray":
        import numpy as np
        import xarray as xr

        axes = {
            name: np.arange(n) + 0.5 for name, n in zip(("slow", "fast"), self.shape, strict=True)
        }
        return xr.DataArray(
            counts.astype(np.float64), axes, name="counts", attrs={"frames": frames}
        )

    @cached_property
    def peaks(self) -> "xr.Dataset":
        """Found peaks: centres, numbers of frames, intensities, flags, Q and hkl.

        ``h``, ``k``, ``l`` are the Miller coordinates, which are not rounded; NaN if the scan is
        not refined. ``qx``, ``qy``, ``qz`` are in 1/Å, with 2π, in the frame of the goniometer at
        zero angles.
        """
        import numpy as np
        import xarray as xr

        from hklflow import nexus

        path = self._path("peaks.nxs")
        names = (*("frame", "slow", "fast"), *("n_frames", "intensity", "var_intensity", "flags"))
        if path.is_file():
            table = nexus.read_peaks(path)
            columns = {name: np.asarray(getattr(table, name)) for name in names}
        else:
            columns = {name: np.zeros(0) for name in names}
        places = tuple(columns[name] for name in names[:3])
        q = self.geometry.q_crystal(*places)
        hkl = np.full(q.shape, np.nan) if self.orientation is None else self.hkl(*places)
        columns["sigma"] = np.sqrt(columns.pop("var_intensity"))
        columns |= dict(zip(("qx", "qy", "qz"), q.T, strict=True))
        columns |= dict(zip("hkl", hkl.T, strict=True))
        return xr.Dataset({name: ("peak", values) for name, values in columns.items()})

    @cached_property
    def predicted(self) -> "xr.Dataset":
        """Reflections that the lattice predicts: h, k, l, frame, slow, fast, and d in Å.

        Reflections that a screw axis or a glide plane forbids are not among them. An offset of the
        crystal from the rotation axis, if one was refined, is not taken into account.
        """
        import numpy as np
        import xarray as xr

        from hklflow.bragg.predicted import predicted_spots

        places = ("frame", "slow", "fast", "d")
        columns = {name: np.zeros(0) for name in (*"hkl", *places)}
        if self.orientation is not None:
            spots = predicted_spots(self.geometry, self.orientation.ub, self.orientation.group)
            spots = spots.select(~spots.absent)
            columns = dict(zip("hkl", spots.hkl.T, strict=True))
            columns |= {name: getattr(spots, name) for name in places}
        return xr.Dataset({name: ("spot", values) for name, values in columns.items()})

    def hkl(self, frame: Any, slow: Any, fast: Any) -> "Floats":
        """Return the Miller coordinates (..., 3) of places in the frames.

        Raises
        ------
        HklflowError
            If the scan is not refined.
        """
        if self.orientation is None:
            raise HklflowError(
                f"{self._folder.parent / ORIENTATION} is not there yet; run `snakemake` to refine "
                "the scan"
            )
        return self.geometry.hkl(self.orientation.ub, frame, slow, fast)

    def rings(self) -> "dict[float, Floats]":
        """Return points (n, 2) in slow and fast of rings of resolution, by d in Å."""
        from hklflow.geometry.rings import rings

        return rings(self.geometry.detector, self.geometry.beam)

    def _require(self, first: int, n: int) -> None:
        if n < 1 or not 0 <= first <= self.n_frames - n:
            raise HklflowError(
                f"there are frames 0 to {self.n_frames - 1}, not {first} to {first + n - 1}; "
                "choose other frames"
            )
