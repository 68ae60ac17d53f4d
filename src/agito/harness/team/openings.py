"""What an agent of a team knows when it begins: the first its task, every other its brief."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agito.harness.team.tools import own_tools
from agito.protocols import AgentSpec
from agito.types import Dialect, Limits, Task, ToolSpec

TEAM_ROLES = ("orchestrator", "worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamRules:
    """Who may be in a team. The first of `roles` begins; it may spawn agents in all the others."""

    roles: tuple[str, ...]
    depth: int = 1  # of agents below the first
    breadth: int = 8  # agents side by side under one parent
    has_notes: bool = False
    forked: tuple[str, ...] = ()  # roles whose agents work on a fork of their parent's world

    def spawnable(self, depth: int) -> tuple[str, ...]:
        """Roles that an agent at this depth may spawn; the first agent's depth is 0."""
        return self.roles[1:] if depth < self.depth else ()


def granted(spec: AgentSpec, task: Task) -> tuple[ToolSpec, ...]:
    """The world's tools that a role may call."""
    return task.tools if spec.tools is None else tuple(tool for tool in task.tools if tool.name in spec.tools)


def own(rules: TeamRules, depth: int) -> tuple[ToolSpec, ...]:
    """The team's tools of an agent at this depth."""
    roles = rules.spawnable(depth)
    merges = not set(roles).isdisjoint(rules.forked)
    return own_tools(roles, is_root=depth == 0, has_notes=rules.has_notes, merges=merges)


def first_task(task: Task, spec: AgentSpec, rules: TeamRules) -> Task:
    """The task as the first agent is told it."""
    prompt: Mapping[Dialect, str] = task.prompt
    if spec.instructions:
        prompt = {dialect: f"{spec.instructions}\n{text}" for dialect, text in prompt.items()}
    return replace(task, prompt=prompt, tools=(*granted(spec, task), *own(rules, 0)))


def brief_task(
    task: Task, spec: AgentSpec, rules: TeamRules, *, role: str, brief: str, turns: int, depth: int
) -> Task:
    """A child's: nothing of the parent's but the brief, behind the role's instructions or else its name."""
    text = f"{spec.instructions or f'{role}:'} {brief}"
    return replace(
        task,
        prompt=dict.fromkeys(task.prompt, text),
        messages=(),
        tools=(*granted(spec, task), *own(rules, depth)),
        limits=replace(task.limits, turns=turns),
    )


def parsed_by(spec: AgentSpec, task: Task, tools: Sequence[ToolSpec]) -> tuple[ToolSpec, ...]:
    """The tools by which a turn is read. The compact dialect tells calls apart by all of a task's; those that
    the role lacks are refused later.
    """
    return (*task.tools, *tools[len(granted(spec, task)) :]) if spec.tools else tuple(tools)


def limits_of(spec: AgentSpec, limits: Limits) -> int:
    """Turns that one agent in this role may take."""
    return limits.turns if spec.turns is None else min(spec.turns, limits.turns)
