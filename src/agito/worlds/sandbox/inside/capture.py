"""The output of a command, bounded."""

from __future__ import annotations


class Capture:
    """Keeps the first and last half of `limit` bytes, and counts all of them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.head = b""
        self.tail = b""
        self.total = 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        if self.total <= self.limit:
            self.head += data
            return
        half = self.limit // 2
        if len(self.head) > half:  # first overflow: so far everything was kept
            self.tail = self.head[half:]
            self.head = self.head[:half]
        elif len(self.head) < half:
            missing = half - len(self.head)
            self.head, data = self.head + data[:missing], data[missing:]
        self.tail = (self.tail + data)[-(self.limit - half) :]

    def value(self) -> bytes:
        if self.total <= self.limit:
            return self.head
        omitted = self.total - len(self.head) - len(self.tail)
        return self.head + b"\n[... %d bytes omitted ...]\n" % omitted + self.tail
