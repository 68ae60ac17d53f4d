"""Bytes with common encodings removed, so that wrapped copies are found too.

Work and unpacked size are bounded, as the bytes come from an agent. Not guaranteed: anything against
home-made encodings.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import codecs
import lzma
import quopri
import re
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import unquote_to_bytes

MOST_BYTES = 1 << 20  # inspected per layer
_DEEP_BYTES = 1 << 16  # larger layers get only one encoding removed
_MOST_LAYERS = 256
_MOST_RUNS = 32  # of each encoding per layer
_ROT13 = bytes.maketrans(
    bytes(range(256)), codecs.encode(bytes(range(256)).decode("latin-1"), "rot13").encode("latin-1")
)
_SPACE = re.compile(rb"\s+")
_HEX = re.compile(rb"[0-9a-fA-F]{48,}")
_ESCAPED = re.compile(rb"\\x([0-9a-fA-F]{2})")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{32,}")
_BASE32 = re.compile(rb"[A-Z2-7]{32,}|[a-z2-7]{32,}")
_CODES = re.compile(rb"\d{1,3}(?:\s*[,; ]\s*\d{1,3}){15,}")
_ZLIB, _GZIP = re.compile(rb"\x78[\x01\x5e\x9c\xda]"), re.compile(rb"\x1f\x8b\x08")
_BZIP = re.compile(rb"BZh[1-9]1AY&SY")
_LZMA = re.compile(rb"\xfd7zXZ\x00|\x5d\x00\x00")
_ZIP = re.compile(rb"PK\x03\x04.{4}\x08\x00", re.DOTALL)


def layers(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The bytes themselves under the name "", then the results of removing one or two encodings, named by the
    outermost.
    """
    pending, count = [("", data[:MOST_BYTES], 0)], 0
    seen = {hash(pending[0][1])}
    while pending and count < _MOST_LAYERS:
        name, layer, depth = pending.pop()
        count += 1
        yield name, layer
        if depth < (2 if len(layer) <= _DEEP_BYTES else 1):
            for kind, inner in _once(layer):
                if inner and hash(inner) not in seen:
                    seen.add(hash(inner))
                    pending.append((name or kind, inner[:MOST_BYTES], depth + 1))


def _once(data: bytes) -> Iterator[tuple[str, bytes]]:
    yield "reversed", data[::-1]
    yield "rot13", data.translate(_ROT13)
    if b"\0" in data:
        yield "utf-16", data.replace(b"\0", b"")
    if b"%" in data:
        yield "url", unquote_to_bytes(data)
    if b"=" in data:
        yield "quoted-printable", quopri.decodestring(data)
    if b"\\x" in data:
        yield "escapes", _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), data)
    yield from _spelled(data)
    if _SPACE.search(data):  # encodings split into lines or pairs
        yield from _spelled(_SPACE.sub(b"", data))
    yield from _unpacked(data)


def _spelled(data: bytes) -> Iterator[tuple[str, bytes]]:
    for found in _some(_HEX, data):
        for start in range(2):  # the digit before the match may belong to it
            yield "hex", binascii.unhexlify(found[0][start : len(found[0]) - (len(found[0]) - start) % 2])
    for found in _some(_BASE64, data):
        run = found[0].replace(b"-", b"+").replace(b"_", b"/")
        for start in range(4):
            whole = run[start : len(run) - ((len(run) - start) % 4 == 1)]
            yield "base64", base64.b64decode(whole + b"=" * (-len(whole) % 4))
    for found in _some(_BASE32, data):
        run = found[0].upper()
        run = run[: len(run) - (len(run) % 8 in (1, 3, 6))]
        yield "base32", base64.b32decode(run + b"=" * (-len(run) % 8))
    for found in _some(_CODES, data):
        codes = [int(number) for number in re.findall(rb"\d+", found[0])]
        yield "character codes", bytes(code for code in codes if code < 256)


def _unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    for found in _some(_ZLIB, data):
        yield (
            "zlib",
            _attempt(lambda at: zlib.decompressobj().decompress(data[at:], MOST_BYTES), found.start()),
        )
    for found in _some(_GZIP, data):
        yield (
            "gzip",
            _attempt(lambda at: zlib.decompressobj(31).decompress(data[at:], MOST_BYTES), found.start()),
        )
    for found in _some(_BZIP, data):
        yield (
            "bzip2",
            _attempt(lambda at: bz2.BZ2Decompressor().decompress(data[at:], MOST_BYTES), found.start()),
        )
    for found in _some(_LZMA, data):
        yield (
            "lzma",
            _attempt(
                lambda at: lzma.LZMADecompressor(memlimit=1 << 26).decompress(data[at:], MOST_BYTES),
                found.start(),
            ),
        )
    for found in _some(_ZIP, data):
        head = data[found.start() : found.start() + 30]
        at = (
            found.start() + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        )
        yield "zip", _attempt(lambda at: zlib.decompressobj(-15).decompress(data[at:], MOST_BYTES), at)


def _attempt(unpack: Callable[[int], bytes], at: int) -> bytes:
    try:
        return unpack(at)
    except (zlib.error, OSError, EOFError, ValueError, lzma.LZMAError, MemoryError):
        return b""


def _some(pattern: re.Pattern[bytes], data: bytes) -> Iterator[re.Match[bytes]]:
    for number, found in enumerate(pattern.finditer(data)):
        if number == _MOST_RUNS:
            return
        yield found
