"""What a recipe says about the harness."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from agito.config import Section
from agito.plugins import absolute
from agito.protocols import MAIN

_ROLE = re.compile(r"[a-z][a-z0-9_-]*")


class HarnessSection(Section):
    """What drives the agents."""

    name: str = Field(
        default="solo", description="A bundled harness, or `path.py:Class`; a path is kept absolute."
    )
    command: str = Field(
        default="",
        description="Instead of `name`: an agent of your own, as a program with its arguments, or "
        "`path.py:function`: see [the gateway](gateway.md).",
    )
    folder: str = Field(
        default="", description="Where `command` runs; kept absolute. Left out: where the run was begun."
    )
    seconds: float = Field(
        default=120.0,
        gt=0,
        description="That `command` may take for one attempt, without those in which it waits for the policy "
        "or a tool.",
    )
    sandbox: bool = Field(
        default=True,
        description="Whether `command` runs in a sandbox of its own for each attempt, with the gateway as "
        "its only way out: a policy may write what it executes. Otherwise it runs as you, with your files.",
    )
    files: tuple[str, ...] = Field(
        default=(),
        description="Of `folder`: files and folders that are copied into the sandbox's working directory, "
        "beside those that `command` names.",
    )
    shown: tuple[str, ...] = Field(
        default=(),
        description="Folders that the sandbox sees, read-only, beside the interpreter that `command` names.",
    )
    warm: bool = Field(
        default=True,
        description="Whether what a Python `command` imports is imported once, in a process from which each "
        "attempt's is forked. Only in a sandbox.",
    )
    compact: bool = Field(
        default=False,
        description="Whether `command` is answered calls' arguments without spaces: for one that sends them "
        "back so.",
    )
    roles: tuple[str, ...] = Field(
        default=(),
        description="Of `team`: the role that begins, then those that it may spawn; left out: orchestrator "
        "and worker. See [teams](howto/teams.md).",
    )
    depth: int = Field(default=1, ge=0, description="Of `team`: generations of agents below the first.")
    breadth: int = Field(default=8, ge=1, description="Of `team`: agents side by side under one parent.")
    notes: bool = Field(default=False, description="Of `team`: whether agents can keep notes for themselves.")

    @field_validator("name")
    @classmethod
    def _holds_everywhere(cls, name: str) -> str:
        return absolute(name)

    @field_validator("roles")
    @classmethod
    def _names_each_role_once(cls, roles: tuple[str, ...]) -> tuple[str, ...]:
        for role in roles:
            if not _ROLE.fullmatch(role) or roles.count(role) > 1:
                raise ValueError(f"{role!r}: a name of its own, of lower case letters, digits, - and _")
        return roles

    @model_validator(mode="after")
    def _has_a_team(self) -> Self:
        if self.roles and self.name != "team":
            raise ValueError(f"roles={list(self.roles)}: only the harness `team` is told its roles")
        return self

    @model_validator(mode="after")
    def _has_one_driver(self) -> Self:
        if not self.command:
            return self
        if self.name != "solo":
            raise ValueError(f"name={self.name!r} and command={self.command!r}: give one of them")
        folder = str(Path(self.folder or ".").expanduser().absolute())
        return self if folder == self.folder else self.model_copy(update={"folder": folder})


class AgentSection(Section):
    """Who plays a role of the harness."""

    policy: str = Field(default=MAIN, description="`main`, or one of `[policies]`.")
    temperature: float | None = Field(
        default=None,
        ge=0,
        description="Of a frozen policy's sampling; those that learn have `rl.temperature`.",
    )
    tools: tuple[str, ...] | None = Field(
        default=None, description="Those of the environment that the role may call; by default all."
    )
    instructions: str = Field(
        default="", description="In a team: before the task, or before the brief of a spawned agent."
    )
    turns: int | None = Field(default=None, ge=1, description="In a team: at most, of one agent.")
    world: Literal["shared", "fork"] = Field(
        default="shared",
        description="In a team, of a spawned agent: its parent's world, or a `fork` of it, which the parent "
        "may merge; only worlds that are one file workspace. See [teams](howto/teams.md#forks-of-the-world).",
    )
