"""White random fields in some voxels, and their waves in a box of distance vectors.

The waves of white noise n are white, and those in the box are drawn again for each field. What they
leave of n in the voxels, (n − F* F n)_h, is correlated among the voxels, and comes from noise in
the whole volume. It is the same for all fields: only waves in the box have a variance that is
learnt. Without waves beyond the box, nothing is left.
"""

import numpy as np
from numpy.typing import NDArray

from hklflow.volumes.hole_waves import Singles, Voxels, Waves

Floats = NDArray[np.float64]


class WhiteField:
    """White noise of variance 1; its even part if the fields are even.

    Parameters
    ----------
    waves : Waves
        With its box.
    voxels : Voxels
    random : numpy.random.Generator
    """

    def __init__(self, waves: Waves, voxels: Voxels, random: np.random.Generator) -> None:
        self._waves, self._voxels, self._random = waves, voxels, random
        self._left: Floats | None = None

    def drawn(self) -> tuple[NDArray[np.inexact], Floats]:
        """Return waves of the box, and the values (n,) of the field in the voxels."""
        if self._left is None:
            self._left = self._beyond_box()
        in_box = self._in_box()
        in_voxels = self._voxels.of_waves(in_box)
        in_voxels /= self._waves.size
        in_voxels += self._left
        return in_box, in_voxels

    def _in_box(self) -> NDArray[np.inexact]:
        """Draw waves of the box."""
        waves = self._waves
        shape = waves.box_shape
        found: NDArray[np.inexact]
        found = self._random.standard_normal(shape if waves.even else (*shape, 2), np.float32)
        if not waves.even:
            found = found.view(np.complex64)[..., 0]
        found *= np.float32(np.sqrt(waves.size / 2))
        # Waves of h = 0, and of the last h of all even numbers, are those of −r, too.
        last = [waves.box[2] // 2] if waves.box[2] % 2 == 0 else []
        back = (-np.arange(n) for n in waves.box[:2])
        opposite = np.ix_(*back)
        for h in (0, *last):
            plane = found[:, :, h]
            found[:, :, h] = (plane + plane[opposite].conj()) * np.float32(np.sqrt(0.5))
        return found

    def _beyond_box(self) -> Floats:
        """Return what waves beyond the box leave of a field in the voxels."""
        waves, voxels, places = self._waves, self._voxels, self._waves.all_places()
        if waves.box == waves.periods:
            return np.zeros(1)
        size = int(np.prod(waves.periods[1:]))
        opposite = np.ix_(*(-np.arange(n) for n in waves.periods[1:]))
        taken = []

        def plane(place: int) -> Singles:
            # A field of −1 and 1 is as white as one of Gaussian numbers.
            bits = np.frombuffer(self._random.bytes(-(-size // 8)), np.uint8)
            signs = np.unpackbits(bits, count=size).reshape(waves.periods[1:])
            values: Singles = 2 * signs.astype(np.float32) - 1
            if waves.even and 2 * place % waves.periods[0] == 0:
                values += values[opposite]
                values *= np.float32(0.5)
            elif waves.even:
                values *= np.float32(np.sqrt(0.5))
            taken.append(voxels.taken(place, values))
            return values

        in_box = waves.of_planes(waves.planes_of(plane, places), places)
        left: Floats = voxels.joined(taken) - voxels.of_waves(in_box) / waves.size
        return left
