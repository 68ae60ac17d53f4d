"""Unused uids: the kernel keeps many quotas per user, so each sandbox should have its own."""

from __future__ import annotations

import os
import random
import socket
from dataclasses import dataclass
from pathlib import Path

_FIRST = 1_900_000_000  # outside the ranges of users, containers and services
_LAST = 4_200_000_000
_BLOCK = 1 << 14  # one for the zygote, the others for live sandboxes
_TRIES = 64
_MOST_PEOPLE = 1000  # lower uids may belong to people


@dataclass(frozen=True, slots=True)
class Users:
    """`count` uids from `first` on; the zygote's first. A pool holds them by an abstract socket name, which
    ends with this process.
    """

    first: int
    count: int
    claim: socket.socket | None = None

    def give_back(self) -> None:
        if self.claim is not None:
            self.claim.close()


def take_users(*, many: bool = True) -> Users:
    """A block that no other pool has, or one user; this process's own user if it is not root, or no other uid
    is mapped here.
    """
    own = Users(os.geteuid(), 1)
    if own.first:
        return own
    first, last = _range()
    num_blocks = (last - first) // _BLOCK
    for _ in range(_TRIES if num_blocks > 0 else 0):
        start = first + random.SystemRandom().randrange(num_blocks) * _BLOCK
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0agito-users-{start}")
        except OSError:
            claim.close()  # another pool's
        else:
            return Users(start, _BLOCK if many else 1, claim)
    return Users(last - 1, 1) if last - 1 > _MOST_PEOPLE else own


def _range() -> tuple[int, int]:
    """The range to use: the far end of the mapped uids, away from those the machine uses itself."""
    try:
        lines = [
            [int(field) for field in line.split()]
            for line in Path("/proc/self/uid_map").read_text().splitlines()
        ]
        groups = [
            [int(field) for field in line.split()]
            for line in Path("/proc/self/gid_map").read_text().splitlines()
        ]
    except (OSError, ValueError):
        return 0, 0
    users = max(((first, first + count) for first, _, count in lines), key=lambda span: span[1] - span[0])
    last = min(users[1], _LAST, max(first + count for first, _, count in groups))
    return max(min(_FIRST, last - 2 * _BLOCK), users[0] + 1), last
