"""Harnesses by name, or by `path.py:Class` from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict, Unpack, cast

from agito import plugins
from agito.errors import BadHarness
from agito.harness.team import TEAM_ROLES, TeamHarness, TeamRules
from agito.protocols import Harness, OpensPool

_TEAM = "team"
_BUNDLED = {"solo": "agito.harness.solo:SoloHarness", _TEAM: ""}
_MEMBERS = ("roles", "run")


class CommandSettings(TypedDict, total=False):
    folder: str
    seconds: float
    compact: bool
    files: Sequence[str]
    shown: Sequence[str]
    warm: bool


def bundled() -> tuple[str, ...]:
    return tuple(_BUNDLED)


def load(
    name: str,
    *,
    command: str = "",
    sandbox: bool = False,
    open_pool: OpensPool | None = None,
    roles: Sequence[str] = (),
    depth: int = 1,
    breadth: int = 8,
    notes: bool = False,
    forked: Sequence[str] = (),
    **settings: Unpack[CommandSettings],
) -> Harness:
    """`command`: instead of a name, somebody's own agent; `settings`: of `foreign.CommandHarness`. `sandbox`:
    it runs in one of a pool that `open_pool` opens. `roles`, `depth`, `breadth`, `notes`, `forked`: of
    `team`.

    Raises `NotFound` for an unknown name, a missing file or class; `BadHarness` for a class that is no
    harness, for a file or class that fails, and for a command that cannot be started.
    """
    if command:
        from agito.harness.foreign import CommandHarness

        if sandbox and open_pool is None:
            raise BadHarness("harness.sandbox: there are no sandboxes here")
        return CommandHarness(command, sandbox=open_pool if sandbox else None, **settings)
    if name == _TEAM:
        return TeamHarness(
            TeamRules(
                roles=tuple(roles) or TEAM_ROLES,
                depth=depth,
                breadth=breadth,
                has_notes=notes,
                forked=tuple(forked),
            )
        )
    harness = cast("Harness", plugins.make("harness", name, _BUNDLED, _MEMBERS, BadHarness))
    if not harness.roles:
        raise BadHarness(f"harness {name!r}: it asks agents for no role, so there is no policy to train")
    return harness
