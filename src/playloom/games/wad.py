"""Doom archives (PWAD): named lumps in order, behind a 12-byte header, before 16-byte directory entries.

Owns the byte layout of the container. Knows nothing of maps or textures.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from playloom.errors import GameError

_HEADER = struct.Struct("<4sii")
_ENTRY = struct.Struct("<ii8s")


def pwad_bytes(lumps: Iterable[tuple[str, bytes]]) -> bytes:
    """A PWAD file with the given (name, content) lumps in order; an empty content makes a marker.

    Raises:
        GameError: when a name is not 1 to 8 ASCII characters.
    """
    body = bytearray()
    directory = bytearray()
    count = 0
    for name, content in lumps:
        if not (1 <= len(name) <= 8 and name.isascii()):
            raise GameError(f"a lump name has 1 to 8 ASCII characters; got {name!r}")
        directory += _ENTRY.pack(_HEADER.size + len(body), len(content), name.encode("ascii"))
        body += content
        count += 1
    return _HEADER.pack(b"PWAD", count, _HEADER.size + len(body)) + bytes(body) + bytes(directory)


def read_pwad(data: bytes) -> list[tuple[str, bytes]]:
    """The lumps of a PWAD, the inverse of `pwad_bytes`.

    Raises:
        GameError: when the bytes are not a whole PWAD.
    """
    if len(data) < _HEADER.size or data[:4] != b"PWAD":
        raise GameError("these bytes are not a PWAD archive; expected the id PWAD and a 12-byte header")
    _, count, start = _HEADER.unpack_from(data)
    if start + count * _ENTRY.size > len(data):
        raise GameError(f"the PWAD is cut short: {len(data)} bytes, directory of {count} lumps at {start}")
    lumps = []
    for index in range(count):
        offset, size, name = _ENTRY.unpack_from(data, start + index * _ENTRY.size)
        lumps.append((name.rstrip(b"\0").decode("ascii"), data[offset : offset + size]))
    return lumps
