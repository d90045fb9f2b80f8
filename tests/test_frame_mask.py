"""The file of the 3-D mask: what is empty takes no room and is told without reading."""

from pathlib import Path

import h5py
import numpy as np

from hklflow import nexus

SHAPE = (12, 300, 213)


def test_empty_frames_are_not_stored_and_read_as_zeros(tmp_path: Path) -> None:
    path = tmp_path / "mask.nxs"
    bits = np.zeros(SHAPE, np.bool_)
    bits[3, 100:120, 40:77] = True
    bits[10, 299, 212] = True
    packed = np.packbits(bits, axis=-1)
    with nexus.FrameMaskWriter(path, SHAPE) as writer:
        for start in (0, 5, 10):
            block = slice(start, start + 5)
            writer.append(packed[block], bits[block].mean(axis=(1, 2)))
    with h5py.File(path) as file:
        assert file["entry/mask/bits"].id.get_num_chunks() == 2
    with nexus.open_frame_mask(path) as mask:
        assert mask.shape == packed.shape
        np.testing.assert_array_equal(mask[0:12], packed)
        np.testing.assert_array_equal(mask[4:10], 0)
        told = [mask.any(z, z + 1) for z in range(12)]
        assert np.flatnonzero(told).tolist() == [3, 10]
        assert mask.any(0, 4)
        assert mask.any(10, 12)
        assert not mask.any(4, 10)
        assert not mask.any(3, 3)
