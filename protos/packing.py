"""Bytes within a message that are small as they are, or compressed where the message could not hold them."""

from __future__ import annotations

import zlib

from protos.errors import InvalidInput

# A message takes 4 MiB, and has more in it than one graph.
_PLAIN_BYTES = 1 << 20
# What a receiver makes of a message at most: a graph of 92 layers of 160 experts has 52 MB.
_MOST_BYTES = 256 << 20


def packed(data: bytes) -> tuple[bytes, bytes]:
    """(as it is, compressed by zlib), one of them empty."""
    return (data, b"") if len(data) <= _PLAIN_BYTES else (b"", zlib.compress(data))


def unpacked(plain: bytes, compressed: bytes) -> bytes:
    """What `packed` was given. Raises InvalidInput for what it did not make."""
    if not compressed:
        return plain
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(compressed, _MOST_BYTES)
    except zlib.error as error:
        raise InvalidInput("what a message holds compressed is damaged") from error
    if plain or not stream.eof or stream.unused_data:
        raise InvalidInput("what a message holds compressed is cut short, too large, or there twice")
    return data
