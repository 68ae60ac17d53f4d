"""Environments by name, by `path.py:Class` from any file, or as prompts with a reward function."""

from __future__ import annotations

from typing import cast

from agito import plugins
from agito.errors import BadEnvironment
from agito.plugins import PromptSet
from agito.protocols import Environment, Isolated

_BUNDLED = {
    "shell": "agito.envs.shell:ShellEnvironment",
    "thinking": "agito.envs.thinking:ThinkingEnvironment",
    "decisions": "agito.envs.decisions:DecisionsEnvironment",
    "desk": "agito.envs.desk:DeskEnvironment",
    "research": "agito.envs.research:ResearchEnvironment",
    "code": "agito.envs.code:CodeEnvironment",
    "parallel": "agito.envs.parallel:ParallelEnvironment",
    "replan": "agito.envs.replan:ReplanEnvironment",
    "web": "agito.envs.web:WebEnvironment",
    "web-text": "agito.envs.web:TextWebEnvironment",
    "shell-realistic": "agito.envs.shell:RealisticShellEnvironment",
    "desk-realistic": "agito.envs.desk:RealisticDeskEnvironment",
    "code-realistic": "agito.envs.code:RealisticCodeEnvironment",
    "thinking-realistic": "agito.envs.thinking:RealisticThinkingEnvironment",
}
_MEMBERS = tuple(name for name in vars(Environment) if not name.startswith("_"))


def bundled() -> tuple[str, ...]:
    return tuple(_BUNDLED)


def isolation_of(environment: Environment) -> str:
    """How episodes are isolated, or `unknown`."""
    return environment.isolation_tier if isinstance(environment, Isolated) else "unknown"


def load(name: str) -> Environment:
    """Raises `NotFound` for an unknown name, a missing file or class; `BadEnvironment` for a class that is no
    environment, and for a file or class that fails."""
    if prompts := PromptSet.parse(name):
        from agito.envs.prompts import PromptsEnvironment  # its libraries take time to load

        return PromptsEnvironment(prompts)
    found = cast("Environment", plugins.make("environment", name, _BUNDLED, _MEMBERS, BadEnvironment))
    for member, kind in (("families", str), ("levels", int), ("splits", str)):
        said: object = getattr(found, member)
        each_one = cast("tuple[object, ...]", said) if isinstance(said, tuple | list) else ()
        if not each_one or not all(isinstance(each, kind) for each in each_one):
            words = "names" if kind is str else "whole numbers"
            raise BadEnvironment(
                f"environment {name!r}: {member}={said!r}: need a tuple of {words}, at least one"
            )
    return found
