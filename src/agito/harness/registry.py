"""Harnesses by name, or by `path.py:Class` from anywhere."""

from __future__ import annotations

from typing import cast

from agito import plugins
from agito.errors import BadHarness
from agito.protocols import Harness

_BUNDLED = {"solo": "agito.harness.solo:SoloHarness"}
_MEMBERS = ("roles", "run")


def bundled() -> tuple[str, ...]:
    return tuple(_BUNDLED)


def load(
    name: str, *, command: str = "", folder: str = "", seconds: float = 120.0, compact: bool = False
) -> Harness:
    """`command`: instead of a name, somebody's own agent, see `foreign`.

    Raises `NotFound` for an unknown name, a missing file or class; `BadHarness` for a class that is no
    harness, for a file or class that fails, and for a command that cannot be started.
    """
    if command:
        from agito.harness.foreign import CommandHarness

        return CommandHarness(command, folder=folder, seconds=seconds, compact=compact)
    harness = cast("Harness", plugins.make("harness", name, _BUNDLED, _MEMBERS, BadHarness))
    if not harness.roles:
        raise BadHarness(f"harness {name!r}: it asks agents for no role, so there is no policy to train")
    return harness
