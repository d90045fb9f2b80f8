"""Truth is what hdf5plugin packed, and a naive packer here for what no packer would write."""

import ctypes
from itertools import product

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hklflow.formats import bitshuffle
from hklflow.formats.bitshuffle import decode

DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4"]


def pack(data, block=0):
    """Pack an array by hdf5plugin."""
    with h5py.File("none", "w", driver="core", backing_store=False) as file:
        how = hdf5plugin.Bitshuffle(nelems=block, cname="lz4")
        dataset = file.create_dataset("x", data=data, chunks=data.shape, **how)
        mask, chunk = dataset.id.read_direct_chunk((0,) * data.ndim)
    assert mask == 0
    return np.frombuffer(chunk, np.uint8)


def unpack(chunk, like):
    """Decode between guards, which must stay as they are."""
    room = np.full(like.nbytes + 128, 0xA5, np.uint8)
    out = room[64:-64].view(like.dtype).reshape(like.shape)
    try:
        decode(chunk, out)
    finally:
        assert (room[:64] == 0xA5).all()
        assert (room[-64:] == 0xA5).all()
    return out


def counts(dtype, n, seed=1):
    """Poisson counts with some peaks and masked pixels, as of a detector."""
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    data = rng.poisson(4, n).astype(np.int64)
    data[:: max(1, n // 20)] += rng.integers(0, 20000, data[:: max(1, n // 20)].size)
    data = np.minimum(data, top - 1).astype(dtype)
    data[rng.random(n) < 0.08] = top if np.dtype(dtype).kind == "u" else -1
    data[n // 3 : n // 2] = np.array(-1).astype(dtype)
    return data


def arrays(dtype, n):
    rng = np.random.default_rng(2)
    info = np.iinfo(dtype)
    yield counts(dtype, n)
    yield rng.integers(info.min, info.max, n, dtype=dtype, endpoint=True)
    yield np.resize(np.array([3, -1, 0]).astype(dtype), n)
    for value in (0, 1, info.max, info.min):
        yield np.full(n, value, dtype=dtype)
    yield np.arange(n).astype(dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_hdf5plugin_packs(dtype):
    sizes = [1, 7, 8, 9, 63, 64, 65, 72, 520, 2047, 2048, 2051, 8192, 3 * 8192 + 77]
    for n, block in product(sizes, [0, 8, 24, 64, 200, 1000, 4096]):
        for data in arrays(dtype, n):
            np.testing.assert_array_equal(unpack(pack(data, block), data), data)


def test_frames_have_any_shape():
    data = counts("u4", 3 * 50 * 41).reshape(3, 50, 41)
    np.testing.assert_array_equal(unpack(pack(data), data), data)


@settings(max_examples=200, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    block=st.integers(0, 40).map(lambda n: 8 * n),
    runs=st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 300)), min_size=1, max_size=20
    ),
    noise=st.integers(0, 8),
)
def test_any_array(dtype, block, runs, noise):
    data = np.concatenate([np.full(n, value, dtype=np.uint32) for value, n in runs])
    data ^= np.random.default_rng(len(data)).integers(0, 1 << noise, len(data), dtype=np.uint32)
    data = data.astype(dtype)
    np.testing.assert_array_equal(unpack(pack(data, block), data), data)


# -------------------------------------------------------------------- streams made by hand


def length_bytes(n):
    """Part of an LZ4 length that does not fit into the token."""
    return [] if n < 15 else [255] * ((n - 15) // 255) + [(n - 15) % 255]


def lz4(sequences, last):
    """LZ4 data of (literals, offset, length of the match), and the bytes they stand for."""
    packed, plain = [], []
    for literals, offset, n in [*sequences, (last, None, 4)]:
        packed.append(min(15, len(literals)) << 4 | min(15, n - 4))
        packed += length_bytes(len(literals)) + list(literals)
        plain += literals
        if offset is None:
            continue
        offset = min(offset, len(plain))
        packed += [offset & 255, offset >> 8, *length_bytes(n - 4)]
        for _ in range(n):
            plain.append(plain[-offset])
    return bytes(packed), bytes(plain)


def container(total, block, blocks, rest=b""):
    parts = [len(packed).to_bytes(4, "big") + packed for packed in blocks]
    head = total.to_bytes(8, "big") + block.to_bytes(4, "big")
    return np.frombuffer(head + b"".join(parts) + rest, np.uint8)


def elements(planes, width):
    """Elements of a block from its bit planes."""
    bits = np.unpackbits(np.frombuffer(planes, np.uint8), bitorder="little")
    bits = bits.reshape(8 * width, -1).astype(np.uint64)
    return (bits << np.arange(8 * width, dtype=np.uint64)[:, None]).sum(axis=0)


LITERALS = st.binary(max_size=40).map(list)
SEQUENCES = st.lists(
    st.tuples(
        st.one_of(LITERALS, st.binary(min_size=250, max_size=300).map(list)),
        st.one_of(st.integers(1, 40), st.integers(41, 65535)),
        st.one_of(st.integers(4, 60), st.integers(250, 600)),
    ).filter(lambda s: len(s[0]) > 0),
    max_size=12,
)


def hand_made(sequences, tail, width):
    """Chunk of one block of the sequences, and its elements."""
    _, plain = lz4(sequences, tail)
    tail = tail + [7] * (-len(plain) % (8 * width))
    packed, plain = lz4(sequences, tail)
    truth = elements(plain, width).astype(f"u{width}")
    rest = truth[:5].tobytes()
    whole = container(len(plain) + len(rest), len(plain), [packed], rest)
    return whole, np.concatenate([truth, truth[:5]])


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(SEQUENCES, LITERALS.filter(len), st.sampled_from([1, 2, 4]))
def test_any_lz4(sequences, tail, width):
    chunk, truth = hand_made(sequences, tail, width)
    np.testing.assert_array_equal(unpack(chunk, truth), truth)


@pytest.mark.parametrize("offset", range(1, 70))
def test_matches_that_overlap_themselves(offset):
    start = list(np.random.default_rng(offset).integers(0, 256, offset).tolist())
    for n in (4, 5, 7, 8, 15, 16, 17, 18, 19, 24, 25, 31, 32, 33, 100, 300):
        chunk, truth = hand_made([(start, offset, n)], [1, 2, 3], 2)
        np.testing.assert_array_equal(unpack(chunk, truth), truth)


# ------------------------------------------------------------------------------ damaged data


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (np.zeros(11, np.uint8), "truncated"),
        (container(64, 64, []), "truncated"),
        (container(63, 64, []), "wrong size"),
        (container(2**63 + 64, 64, []), "wrong size"),
        (container(64, 60, []), "invalid block size"),
        (container(64, 3, []), "invalid block size"),
        (container(64, 64, [b""]), "not LZ4"),
        (container(64, 64, [lz4([], [1] * 63)[0]]), "not LZ4"),
        (container(64, 64, [lz4([], [1] * 65)[0]]), "not LZ4"),
        (container(64, 64, [lz4([([1], 1, 63)], [])[0][:-1]]), "not LZ4"),
        (container(64, 64, [bytes([0x10, 1, 2, 0, *[0] * 62])]), "not LZ4"),
        (container(64, 64, [bytes([0x10, 1, 0, 0, *[0] * 62])]), "not LZ4"),
        (container(64, 64, [bytes([0x1F, 1, 1, 0, *[255] * 9])]), "not LZ4"),
        (container(64, 64, [bytes([0xF0, *[255] * 90])]), "not LZ4"),
    ],
)
def test_what_is_wrong_is_told(chunk, message):
    with pytest.raises(ValueError, match=message):
        unpack(chunk, np.zeros(16, np.uint32))


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
def test_no_part_of_a_chunk_is_taken_for_the_whole(dtype):
    data = counts(dtype, 2500 + 3)
    chunk = pack(data, 256)
    for end in range(len(chunk)):
        with pytest.raises(ValueError, match="compressed data"):
            unpack(chunk[:end].copy(), data)


def test_arrays_that_cannot_be_decoded_to():
    data = counts("u4", 100)
    chunk = pack(data)
    for out in (np.zeros(200, np.uint32)[::2], np.zeros(50, np.uint64)):
        with pytest.raises(ValueError, match="cannot decode"):
            decode(chunk, out)
    with pytest.raises(ValueError, match="contiguous"):
        decode(np.repeat(chunk, 2)[::2], data)


def damaged(chunk, rng):
    """Copy with some bytes changed, inserted or lost; often where lengths stand."""
    chunk = chunk.copy()
    for _ in range(rng.integers(1, 4)):
        at = rng.integers(0, min(20, len(chunk)) if rng.random() < 0.3 else len(chunk))
        kind = rng.random()
        if kind < 0.6:
            chunk[at] = rng.choice([rng.integers(256), 0, 1, 15, 16, 0x7F, 0x80, 0xF0, 0xFF])
        elif kind < 0.8:
            chunk[at] ^= 1 << rng.integers(8)
        elif kind < 0.9:
            chunk = np.insert(chunk, at, rng.integers(0, 256, rng.integers(1, 9)))
        elif at > 0:
            chunk = chunk[:at] if rng.random() < 0.5 else np.delete(chunk, at)
    return np.ascontiguousarray(chunk)


def test_damaged_chunks_give_an_error_or_some_numbers():
    rng = np.random.default_rng(3)
    outcomes = [0, 0]
    for i in range(6000):
        if i % 50 == 0:
            data = counts(DTYPES[i // 50 % 6], int(rng.integers(20, 3000)), seed=i)
            chunk = pack(data, int(rng.choice([0, 64, 512])))
        try:
            unpack(damaged(chunk, rng), data)
            outcomes[0] += 1
        except ValueError:
            outcomes[1] += 1
    assert min(outcomes) > 100


class Memory:
    """The memory of the kernels: whatever lies outside of the known arrays is an error."""

    def __init__(self, monkeypatch):
        self.arrays = []
        for bits in (8, 16, 64):
            monkeypatch.setattr(bitshuffle, f"load{bits}", self.loader(bits // 8))
        for bits in (8, 64):
            monkeypatch.setattr(bitshuffle, f"store{bits}", self.storer(bits // 8))
        for n in (8, 16, 32):
            monkeypatch.setattr(
                bitshuffle, f"copy{n}", lambda to, at, n=n: self.write(to, self.read(at, n))
            )
        for bits in (8, 16, 32):
            monkeypatch.setattr(bitshuffle, f"sum64_{bits}", self.summer(bits // 8))
        monkeypatch.setattr(bitshuffle, "copy", self.copy)
        monkeypatch.setattr(bitshuffle, "fill", lambda to, v, n: self.write(to, bytes([v]) * n))
        monkeypatch.setattr(
            bitshuffle, "differ64", lambda a, b: self.read(a, 64) != self.read(b, 64)
        )
        for name in ("_long", "_repeat", "unpack", "_alike", "_group", "_number", "_decode"):
            monkeypatch.setattr(bitshuffle, name, getattr(bitshuffle, name).py_func)
        self.decode_blocks = bitshuffle._decode_blocks.py_func
        monkeypatch.setattr(bitshuffle, "_decode_blocks", self.with_scratch)

    def with_scratch(self, *arguments):
        known = len(self.arrays)
        self.arrays += [(a, True) for a in arguments[-3:]]
        try:
            return self.decode_blocks(*map(int, arguments[:-3]), *arguments[-3:])
        finally:
            del self.arrays[known:]

    def require(self, address, n, write):
        address = int(address)
        assert n >= 0
        for array, writeable in self.arrays:
            first = array.ctypes.data
            if first <= address and address + n <= first + array.nbytes:
                assert writeable or not write
                return address
        raise AssertionError(f"{n} bytes at {address} are in no array")

    def read(self, address, n):
        return ctypes.string_at(self.require(address, n, False), n)

    def write(self, address, value):
        ctypes.memmove(self.require(address, len(value), True), value, len(value))

    def copy(self, to, at, n):
        assert to + n <= at or at + n <= to or n == 0
        self.write(to, self.read(at, n))

    def loader(self, n):
        return lambda address: int.from_bytes(self.read(address, n), "little")

    def storer(self, n):
        return lambda address, value: self.write(
            address, (int(value) % (1 << 8 * n)).to_bytes(n, "little")
        )

    def summer(self, width):
        def put(out, masks, values, n_low, n, at):
            sums, low = [0] * 64, 0
            for j in range(n):
                mask_at, value = (
                    int.from_bytes(self.read(table + 8 * j, 8), "little")
                    for table in (masks, values)
                )
                low += value if j < n_low else 0
                bits = int.from_bytes(self.read(mask_at + at, 8), "little")
                sums = [s + value * (bits >> i & 1) for i, s in enumerate(sums)]
            assert low < 256
            self.write(out, b"".join(s.to_bytes(width, "little") for s in sums))

        return put


@pytest.mark.slow
def test_damaged_chunks_never_touch_foreign_memory(monkeypatch):
    memory = Memory(monkeypatch)
    rng = np.random.default_rng(4)
    outcomes = [0, 0]
    for i in range(1500):
        if i % 25 == 0:
            # Not over-long, for this is plain Python; one of them is well compressed.
            data = counts(DTYPES[i // 25 % 6], int(rng.integers(8, 400)), seed=i)
            if i % 50 == 0:
                data[:] = data[:4].max()
            chunk = pack(data, int(rng.choice([0, 64, 128])))
            out = np.empty_like(data)
            memory.arrays = [(chunk, False), (out, True)]
            decode(chunk, out)
            np.testing.assert_array_equal(out, data)
        bad = damaged(chunk, rng)
        memory.arrays = [(bad, False), (out, True)]
        try:
            decode(bad, out)
            outcomes[0] += 1
        except ValueError:
            outcomes[1] += 1
    assert min(outcomes) > 20


@settings(max_examples=100, deadline=None)
@given(SEQUENCES, LITERALS.filter(len), st.sampled_from([1, 2, 4]))
def test_no_lz4_touches_foreign_memory(sequences, tail, width):
    with pytest.MonkeyPatch.context() as monkeypatch:
        memory = Memory(monkeypatch)
        chunk, truth = hand_made(sequences, tail, width)
        out = np.empty_like(truth)
        memory.arrays = [(chunk, False), (out, True)]
        decode(chunk, out)
        np.testing.assert_array_equal(out, truth)
