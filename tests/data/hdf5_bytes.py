"""HDF5 files written byte by byte, by the format's specification (superblock 0, old groups, contiguous arrays).

It is what the oldest writers make, and shares no line with h5py or with our own writer.
"""

import struct

import numpy as np

UNKNOWN = 2**64 - 1
LEAVES, INNER = 8, 16  # half of the entries that a node of names, and of the tree, has room for


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _message(kind: int, data: bytes) -> bytes:
    data = _pad(data)
    return struct.pack("<HHBxxx", kind, len(data), 0) + data


def _header(*messages: bytes) -> bytes:
    body = b"".join(messages)
    return struct.pack("<BxHIIxxxx", 1, len(messages), 1, len(body)) + body


def _kind(dtype: np.dtype) -> bytes:
    """The datatype message of little-endian floats and of unsigned bytes."""
    if dtype.kind == "f":
        bits = 8 * dtype.itemsize
        exponent, mantissa = {32: (8, 23), 64: (11, 52)}[bits]
        properties = struct.pack("<HHBBBBI", 0, bits, mantissa, exponent, 0, mantissa, 2 ** (exponent - 1) - 1)
        return struct.pack("<BBBBI", 0x11, 0x20, bits - 1, 0, dtype.itemsize) + properties
    assert dtype == np.uint8
    return struct.pack("<BBBBIHH", 0x10, 0, 0, 0, 1, 0, 8)


def hdf5(arrays: dict[str, np.ndarray]) -> bytes:
    """A file with the arrays at its root: superblock, root, tree, heap of names, node of names, headers, data."""
    names = sorted(arrays)
    assert len(names) <= 2 * LEAVES
    heap, offsets = bytes(8), {}
    for name in names:
        offsets[name] = len(heap)
        heap += _pad(name.encode() + b"\0")
    root_at = 96
    tree_at = root_at + 16 + 8 + 16
    heap_at = tree_at + 24 + 2 * INNER * 16 + 8
    names_at = heap_at + 32 + len(heap)
    end = names_at + 8 + 2 * LEAVES * 40
    entries, tail = b"", b""
    for name in names:
        array = np.ascontiguousarray(arrays[name])
        shape = struct.pack("<BBBxxxxx", 1, array.ndim, 0) + struct.pack(f"<{array.ndim}Q", *array.shape)
        fill = struct.pack("<BBBB", 2, 1, 0, 0)

        def header(data_at, array=array, shape=shape, fill=fill):
            place = struct.pack("<BBQQ", 3, 1, data_at, array.nbytes)
            parts = ((1, shape), (3, _kind(array.dtype)), (5, fill), (8, place))
            return _header(*(_message(kind, data) for kind, data in parts))

        header_at = end + len(tail)
        data_at = header_at + len(header(0))
        tail += header(data_at) + _pad(array.tobytes())
        entries += struct.pack("<QQII16x", offsets[name], header_at, 0, 0)
    superblock = b"\x89HDF\r\n\x1a\n" + struct.pack("<8BHHI", 0, 0, 0, 0, 0, 8, 8, 0, LEAVES, INNER, 0)
    superblock += struct.pack("<QQQQ", 0, UNKNOWN, end + len(tail), UNKNOWN)
    superblock += struct.pack("<QQIIQQ", 0, root_at, 1, 0, tree_at, heap_at)
    tree = b"TREE" + struct.pack("<BBHQQQQQ", 0, 0, 1, UNKNOWN, UNKNOWN, 0, names_at, offsets[names[-1]])
    return b"".join(
        (
            superblock,
            _header(_message(0x11, struct.pack("<QQ", tree_at, heap_at))),
            tree.ljust(24 + 2 * INNER * 16 + 8, b"\0"),
            b"HEAP" + struct.pack("<BxxxQQQ", 0, len(heap), 1, heap_at + 32) + heap,
            (b"SNOD" + struct.pack("<BxH", 1, len(names)) + entries).ljust(8 + 2 * LEAVES * 40, b"\0"),
            tail,
        )
    )
