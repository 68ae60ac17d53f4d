"""Renderers that ask for effort, and keep a policy's thinking within blocks."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from agito.protocols.renderer import Renderer
from agito.protocols.world import ScriptFactory
from agito.types import Call, Effort, Target, Task, ToolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Thought:
    """What a turn, so far, thought."""

    num_tokens: int  # sampled within blocks; tags and forced tokens are not counted
    is_open: bool  # whether the turn, as it stands, is within a block
    may_reopen: bool = False  # whether it may be about to open another, by tags that are no single token
    num_leaked: int = 0  # tokens outside blocks that the turn's calls do not need


@dataclass(frozen=True, slots=True, kw_only=True)
class ThoughtfulCall(Call):
    """A demonstrator's call, and what it thinks before."""

    thinking: str = ""


@runtime_checkable
class ThinkingRenderer(Renderer, Protocol):
    """A renderer for one effort. Its `opening` and `observation` end with `opener`: the request, where it is
    made turn by turn, and the begin of a think block, closed at once for `none`. Ids of a turn are what
    follows the opener."""

    @property
    def effort(self) -> Effort: ...
    @property
    def opener(self) -> array[int]: ...
    @property
    def closer(self) -> array[int]:
        """Closes a block."""
        ...

    @property
    def reopeners(self) -> tuple[int, ...]:
        """Single tokens that open another block in mid-turn; empty where no single token does."""
        ...

    def thought(self, ids: Sequence[int], tools: Sequence[ToolSpec] = ()) -> Thought:
        """Of a turn so far, sampled and forced tokens alike. What leaked is known where `tools` are given."""
        ...


@runtime_checkable
class AsksEffort(Renderer, Protocol):
    """A renderer that has one for each effort."""

    def asking(self, effort: Effort) -> ThinkingRenderer:
        """Raises `ValueError` when this model cannot be asked for it."""
        ...


@runtime_checkable
class Thoughtful(Protocol):
    """An environment with demonstrators that think at any effort. Optional; without it, there is nothing to
    begin effort from."""

    def thinker(
        self, task: Task, target: Target, *, effort: Effort, skill: float, seed: int
    ) -> ScriptFactory:
        """As `Environment.demonstrator`; its script yields `ThoughtfulCall`s where it thinks. For `auto`,
        scripts that think and scripts that do not."""
        ...


@runtime_checkable
class ThinksAhead(Thoughtful, Protocol):
    """An environment with demonstrators that think only before their first call, for `effort.turns`.
    Optional."""

    def planner(
        self, task: Task, target: Target, *, effort: Effort, again: bool, skill: float, seed: int
    ) -> ScriptFactory:
        """As `thinker`. `again`: thinks after a call that failed too."""
        ...


@runtime_checkable
class ShowsDifficulty(Protocol):
    """An environment that says what its prompts tell of how hard a task is. Optional; without it, that is
    taken to be the task's family and level."""

    def shown(self, task: Task) -> str:
        """Equal for tasks that a policy cannot tell apart before it acts."""
        ...
