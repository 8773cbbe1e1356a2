"""Bytes within a message that are small as they are, or compressed where the message could not hold them."""

from __future__ import annotations

import zlib

from protos.errors import InvalidInput

# A message takes 4 MiB, and has more in it than one graph.
_PLAIN_BYTES = 1 << 20
# What a receiver makes of one message at most, all that it holds together: a graph of 92 layers of 160 experts has 52 MB.
MOST_BYTES = 128 << 20


def packed(data: bytes) -> tuple[bytes, bytes]:
    """(as it is, compressed by zlib), one of them empty."""
    return (data, b"") if len(data) <= _PLAIN_BYTES else (b"", zlib.compress(data))


def unpacked(plain: bytes, compressed: bytes, most_bytes: int = MOST_BYTES) -> bytes:
    """What `packed` was given. Raises InvalidInput for what it did not make, having made no more than `most_bytes` of it."""
    if not compressed:
        return plain
    if most_bytes <= 0:  # which zlib takes for no bound
        raise InvalidInput("what a message holds compressed is too large")
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(compressed, most_bytes)
    except zlib.error as error:
        raise InvalidInput("what a message holds compressed is damaged") from error
    if plain or not stream.eof or stream.unused_data:
        raise InvalidInput("what a message holds compressed is cut short, too large, or there twice")
    return data
