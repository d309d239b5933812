"""The form of an entry in Redis: a byte for its kind, a checksum, the packed entry as it is or compressed.

Nothing that is in Redis is trusted to be what was written: neither whole, nor small, nor fit to be given.
"""

import math
import re
import zlib

from main_api.state.entries import Entry, pack, unpack

# Bytes of a packed entry; what is larger costs everybody too much time on its way.
MOST = 1024 * 1024
_COMPRESSED_FROM = 1024
# Fast rather than small: it stands on the way of a request.
_LEVEL = 1
_PLAIN, _ZLIB = b"\x00", b"\x01"
_SUM_BYTES = 4
# Bytes of the largest value.
VALUE_MOST = len(_PLAIN) + _SUM_BYTES + MOST
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Of one line, and of letters that HTTP can carry.
_VALUE = re.compile(r"[^\x00\r\n\u0100-\U0010ffff]*")


def write(entry: Entry) -> bytes | None:
    """Write ``entry`` as a value; None when it is larger than :data:`MOST`."""
    data = pack(entry)
    if len(data) > MOST:
        return None
    kind = _PLAIN
    if len(data) > _COMPRESSED_FROM:
        smaller = zlib.compress(data, _LEVEL)
        if len(smaller) < len(data):
            kind, data = _ZLIB, smaller
    return kind + zlib.crc32(data).to_bytes(_SUM_BYTES, "big") + data


def read(value: bytes) -> Entry | None:
    """Read what :func:`write` wrote; None for anything else, and no more memory than :data:`MOST` for it."""
    start = len(_PLAIN) + _SUM_BYTES
    kind, checksum, data = value[: len(_PLAIN)], value[len(_PLAIN) : start], value[start:]
    if len(data) > MOST or zlib.crc32(data).to_bytes(_SUM_BYTES, "big") != checksum:
        return None
    if kind == _ZLIB:
        decompressor = zlib.decompressobj()
        try:
            data = decompressor.decompress(data, MOST + 1)
        except zlib.error:
            return None
        if len(data) > MOST or not decompressor.eof or decompressor.unused_data:
            return None
    elif kind != _PLAIN:
        return None
    entry = unpack(data)
    return entry if entry is not None and _possible(entry) else None


def _possible(entry: Entry) -> bool:
    """Whether ``entry`` can be given: a moment that is none, or a header of two lines, would be an error."""
    numbers = (entry.born, entry.lifetime, entry.stale_if_error)
    return (
        200 <= entry.status <= 599
        and all(map(math.isfinite, numbers))
        and all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in entry.headers)
    )
