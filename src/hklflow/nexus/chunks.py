"""Cut a strip of a volume into chunks, and compress them in the format of the HDF5 filters.

With the deflate filter of HDF5, compression takes most of the time of merging and writing a volume.
ISA-L writes the same format, which all programs can read, six times as fast. The lower bytes of
measured floating-point numbers are noise, which no program can compress: they are stored as they
are, as the format allows, and are then read three to five times as fast, too.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hklflow.simd.jit import kernel

# A rank of bytes is noise if two of its bytes are equal less often than this.
_EQUAL = 3 / 256
_STEP = 11  # every 11th byte is examined
_BLOCK = 65535  # largest block of bytes that are stored as they are


def pack(chunk: NDArray[Any]) -> bytes:
    """Return a chunk compressed in the format of the filters shuffle and gzip.

    Parameters
    ----------
    chunk : contiguous array
        Little-endian numbers.
    """
    from isal import isal_zlib

    ranks = np.empty((chunk.itemsize, chunk.size), np.uint8)
    n_noise = _shuffle(chunk.reshape(-1).view(f"u{chunk.itemsize}"), ranks, _EQUAL, _STEP)
    if not n_noise:
        packed: bytes = isal_zlib.compress(ranks, 1)
        return packed
    # The format (RFC 1950, 1951): header, blocks that are stored as they are, each with its length
    # and the complement of the length; compressed blocks; checksum of all bytes.
    parts: list[Any] = [b"\x78\x01"]
    noise = ranks[:n_noise].reshape(-1)
    for first in range(0, len(noise), _BLOCK):
        block = noise[first : first + _BLOCK]
        n = len(block)
        parts += [b"\0", n.to_bytes(2, "little"), (n ^ _BLOCK).to_bytes(2, "little"), block]
    # Without bytes that are left, this is an empty last block.
    parts.append(isal_zlib.compress(ranks[n_noise:], 1, -15))
    parts.append(isal_zlib.adler32(ranks).to_bytes(4, "big"))
    return b"".join(parts)


@kernel
def _shuffle(words, ranks, equal, step):  # type: ignore[no-untyped-def]
    """Put the first bytes of all numbers (n,) into the first rank (rank, n), and so on.

    Return the number of ranks, from the first on, that are noise.
    """
    for rank in range(ranks.shape[0]):
        row, bits = ranks[rank], words.dtype.type(8 * rank)
        for i in range(words.size):
            row[i] = words[i] >> bits
    count = np.empty(256, np.int64)
    n = (words.size + step - 1) // step
    for rank in range(ranks.shape[0]):
        count[:] = 0
        row, pairs = ranks[rank], 0
        for i in range(0, words.size, step):
            pairs += count[row[i]]
            count[row[i]] += 1
        if 2 * pairs >= equal * n * (n - 1):
            return rank
    return ranks.shape[0]


@kernel
def cut(strip, fill, chunks, used):  # type: ignore[no-untyped-def]
    """Cut a strip (l, k, h) along h into chunks (n, l, k, h), which are padded with ``fill``.

    ``used`` (n,) is False for chunks whose values are all ``fill``. Rows of the strip are read from
    end to end, because the memory is slow where the reading jumps.
    """
    n_l, n_k, n_h = strip.shape
    width = chunks.shape[3]
    used[:] = False
    for l in range(chunks.shape[1]):  # noqa: E741
        for k in range(chunks.shape[2]):
            for i in range(chunks.shape[0]):
                row = chunks[i, l, k]
                if l >= n_l or k >= n_k:
                    row[:] = fill
                    continue
                part = strip[l, k, i * width : min((i + 1) * width, n_h)]
                row[: part.size] = part
                row[part.size :] = fill
                h = 0
                # The last term handles NaN, which is not equal to itself.
                while not used[i] and h < part.size:
                    used[i] = (part[h] != fill) & ((part[h] == part[h]) | (fill == fill))
                    h += 1


@kernel
def place(chunk, out, at):  # type: ignore[no-untyped-def]
    """Copy the part of a chunk that is inside of ``out``; ``at``: place of its first number."""
    n_l, n_k, n_h = out.shape
    left, right = max(0, -at[2]), min(chunk.shape[2], n_h - at[2])
    for l in range(max(0, -at[0]), min(chunk.shape[0], n_l - at[0])):  # noqa: E741
        for k in range(max(0, -at[1]), min(chunk.shape[1], n_k - at[1])):
            row = out[at[0] + l, at[1] + k, at[2] + left : at[2] + right]
            part = chunk[l, k, left:right]
            for h in range(part.size):
                row[h] = part[h]


@kernel
def place_ranks(ranks, out, at):  # type: ignore[no-untyped-def]
    """Put the bytes (rank, l, k, h) of a chunk in order, and copy it as `place`."""
    n_l, n_k, n_h = out.shape
    word = out.dtype.type
    left, right = max(0, -at[2]), min(ranks.shape[3], n_h - at[2])
    for l in range(max(0, -at[0]), min(ranks.shape[1], n_l - at[0])):  # noqa: E741
        for k in range(max(0, -at[1]), min(ranks.shape[2], n_k - at[1])):
            row = out[at[0] + l, at[1] + k, at[2] + left : at[2] + right]
            part = ranks[0, l, k, left:right]
            if ranks.shape[0] == 4:
                b, c = ranks[1, l, k, left:right], ranks[2, l, k, left:right]
                d = ranks[3, l, k, left:right]
                for h in range(part.size):
                    low = word(part[h]) | word(b[h]) << word(8)
                    row[h] = low | word(c[h]) << word(16) | word(d[h]) << word(24)
                continue
            for h in range(part.size):
                row[h] = part[h]
            for rank in range(1, ranks.shape[0]):
                bits, part = word(8 * rank), ranks[rank, l, k, left:right]
                for h in range(part.size):
                    row[h] |= word(part[h]) << bits
