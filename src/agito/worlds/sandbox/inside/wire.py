"""The frames between the host and a sandbox's pid 1.

Requests are trusted: a length, then a marshalled tuple. Replies come from the episode's side and are never
unmarshalled: a fixed header, then plain bytes.
"""

from __future__ import annotations

import marshal
import struct
from typing import Any

LENGTH = struct.Struct("<I")
# body length, kind, killer, idle, wait status, output bytes, wall, cpu, peak MiB, reserved
REPLY = struct.Struct("<IBBBiQdddd")

READY, RESULT, DONE, FROZEN, REFUSED = 1, 2, 3, 4, 5  # kinds of reply
# what killed an action; START: it never began
DEADLINE, MEMORY, OUTPUT, START, CPU, ASLEEP = 1, 2, 3, 4, 5, 6
MAX_REPLY = 1 << 26
FORMAT = 2  # marshal format; every supported Python reads it


def request(*fields: Any) -> bytes:
    body = marshal.dumps(fields, FORMAT)
    return LENGTH.pack(len(body)) + body


def reply(
    kind: int,
    body: bytes = b"",
    *,
    killer: int = 0,
    idle: bool = True,
    status: int = 0,
    total: int = 0,
    wall: float = 0.0,
    cpu: float = 0.0,
    peak: float = 0.0,
) -> bytes:
    return REPLY.pack(len(body), kind, killer, idle, status, total, wall, cpu, peak, 0.0) + body
