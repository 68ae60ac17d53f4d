"""`[harness]` of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from agito.config import Section
from agito.plugins import absolute


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
    compact: bool = Field(
        default=False,
        description="Whether `command` is answered calls' arguments without spaces: for one that sends them "
        "back so.",
    )

    @field_validator("name")
    @classmethod
    def _holds_everywhere(cls, name: str) -> str:
        return absolute(name)

    @model_validator(mode="after")
    def _has_one_driver(self) -> Self:
        if not self.command:
            return self
        if self.name != "solo":
            raise ValueError(f"name={self.name!r} and command={self.command!r}: give one of them")
        folder = str(Path(self.folder or ".").expanduser().absolute())
        return self if folder == self.folder else self.model_copy(update={"folder": folder})
