"""Sums of frames that the stage `background` reads for another purpose.

They tell what the runs without the crystal leave in the frames with the crystal.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from hklflow.geometry import Rotation
    from hklflow.images.ring_search import Search
    from hklflow.images.run_check import Counted
    from hklflow.images.surroundings import Part, Valid

# Bins of |Q| that are joined (four pixels) to compare counts with the background.
_JOINED = 8


class Watch:
    """Sums of the pixels of frames that are read for another purpose, and of their rest by cell."""

    def __init__(self, rotation: "Rotation", parts: "Sequence[Part]") -> None:
        import numpy as np

        from hklflow.images import ring_search
        from hklflow.stage import unmeasured_sums

        shape = rotation.detector.shape
        self.counts = np.zeros(shape)
        self.weights = np.zeros((len(parts), *shape))
        edges = unmeasured_sums.ring_edges(rotation)
        places = unmeasured_sums.pixel_places(rotation)
        self._cell = ring_search.numbers(places.q, places.azimuth, edges)
        self._known = np.isfinite(np.sum([part.level + part.variance for part in parts], axis=0))
        self._n = rotation.scan.n_frames
        size = ring_search.GROUPS, ring_search.SECTORS, len(edges) - 1
        turn = self._n * abs(np.degrees(rotation.scan.step))
        self.cells = ring_search.Cells(edges, np.zeros(size), np.zeros(size), turn)
        self._expected = np.zeros(size)

    def passed(
        self,
        frames: "Iterator[tuple[int, NDArray[Any]]]",
        incident: "NDArray[np.float64]",
        parts: "Sequence[Part]",
        valid: "Valid",
    ) -> "Iterator[tuple[int, NDArray[Any]]]":
        """Yield the frames, and add the good pixels of each."""
        import numpy as np

        from hklflow.images import masks, ring_search

        limit = min(valid.flag_from, valid.saturated_from)
        for frame, image in frames:
            good = ~masks.flagged(image, limit, valid.valid_from)
            self.counts += np.where(good, image, 0)
            expected = np.zeros(image.shape)
            for weight, part in zip(self.weights, parts, strict=True):
                own = incident[frame] * part.factor[frame]
                weight += good * own
                expected += own * part.level
            good &= self._known
            group = frame * ring_search.GROUPS // self._n
            for sums, values in (
                (self.cells.counts, image[good] - expected[good]),
                (self._expected, expected[good]),
                (self.cells.unit, np.full(np.count_nonzero(good), incident[frame])),
            ):
                cells = np.bincount(self._cell[good], values, sums[group].size)
                sums[group] += cells.reshape(sums[group].shape)
            yield frame, image

    def rings(self, parts: "Sequence[Part]") -> "Search":
        """Return the powder rings that the runs leave in the frames."""
        import numpy as np

        from hklflow.images import ring_search

        unit = self.cells.unit.sum(axis=(0, 1))
        noise = self._noise(parts)
        variance = np.divide(noise, unit**2, out=np.zeros_like(unit), where=unit > 0)
        return ring_search.search(self.cells, variance)

    def most(self, parts: "Sequence[Part]") -> tuple[float, float]:
        """Return the largest factor of the background that the counts allow, and what S loses.

        No part of the detector and of the rotation may have fewer counts than the background, by
        more than two standard deviations. The second is a part of S between the reflections, the
        median over |Q|.
        """
        import numpy as np

        n = len(self.cells.middles) // _JOINED * _JOINED
        expected, rest, noise = (
            x[..., :n].reshape(*x.shape[:-1], -1, _JOINED).sum(axis=-1)
            for x in (self._expected, self.cells.counts, self._noise(parts))
        )
        total = np.maximum(expected.sum(axis=(0, 1)), 1e-100)
        # A sector has as many pixels of the run as any other.
        variance = noise / total**2 * expected.shape[1] * expected**2
        counts = expected + rest
        high = counts + 2 * np.sqrt(np.maximum(counts, 1) + variance)
        if not (expected > 0).any():
            return 1.0, 0.0
        most = float(np.min(high[expected > 0] / expected[expected > 0]))
        between = self.cells.between * self.cells.unit.sum(axis=(0, 1))
        use = between > 0
        of_s = (most - 1) * self._expected.sum(axis=(0, 1))[use] / between[use]
        return most, float(np.median(of_s)) if use.any() else 0.0

    def _noise(self, parts: "Sequence[Part]") -> "NDArray[np.float64]":
        """Return the variance of the background in each bin of |Q|, summed over all frames."""
        import numpy as np

        n = len(self.cells.middles)
        noise = np.zeros(n)
        for weight, part in zip(self.weights, parts, strict=True):
            variance = np.where(self._known, np.nan_to_num(weight**2 * part.variance), 0.0)
            noise += np.bincount(self._cell.ravel() % n, variance.ravel(), n)
        return noise

    def sums(self, parts: "list[Part]") -> "Counted":
        """Return the sums with the counts that the runs expect."""
        from hklflow.images import run_check

        return run_check.expected(self.counts, self.weights, parts)
