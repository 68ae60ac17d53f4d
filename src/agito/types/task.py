"""A task as the policy may see it, its target, calls and events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agito.types.enums import Dialect, Fault, Json


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class AttemptId:
    """The ledger's key. `group` is unique within a run; a void slot is tried again."""

    group: int
    slot: int
    tries: int = 0

    def __str__(self) -> str:
        return f"{self.group}.{self.slot}.{self.tries}"

    @classmethod
    def parse(cls, text: str) -> AttemptId:
        """Raises `ValueError` unless `text` has the form GROUP.SLOT or GROUP.SLOT.TRY."""
        parts = text.split(".")
        if len(parts) not in (2, 3) or not all(part.isdigit() for part in parts):
            raise ValueError(f"attempt={text!r}: write GROUP.SLOT or GROUP.SLOT.TRY, such as 12.3")
        group, slot, *rest = (int(part) for part in parts)
        return cls(group=group, slot=slot, tries=rest[0] if rest else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool as the policy sees it. `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: Mapping[str, Json]
    is_speech: bool = False  # not offered in a chat: a turn without a call calls it, with all of its text

    def as_function(self) -> dict[str, Json]:
        """In the format of chat templates and model servers."""
        function: Json = {
            "name": self.name,
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}

    def spoken(self, text: str, raw: str) -> Call:
        """The call of a turn that said this."""
        properties = self.parameters["properties"]
        assert isinstance(properties, dict) and len(properties) == 1, f"{self.name}: speech is one argument"
        return Call(tool=self.name, arguments={next(iter(properties)): text}, raw=raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one attempt may spend. An attempt that reaches a limit ends there and is scored as it stands."""

    turns: int = 12
    calls: int = 12
    tokens: int = 384  # the whole context, including observations
    turn_tokens: int = 48  # sampled per turn
    seconds: float = 60.0  # wall time of the world's answers over the whole attempt
    call_seconds: float = 5.0  # per tool call
    observation_bytes: int = 2048  # of one result that the policy reads: head and tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the policy may see. Seeds and answers are not part of it."""

    id: str  # unique within (env, version)
    env: str
    split: str
    family: str
    level: int
    prompt: Mapping[Dialect, str]
    tools: tuple[ToolSpec, ...]
    messages: tuple[
        Mapping[str, Json], ...
    ] = ()  # the conversation so far, where a chat begins with more than the prompt
    limits: Limits = field(default_factory=Limits)
    # In the natural dialect, which takes several times as many tokens; None: as `limits`.
    natural_limits: Limits | None = None
    tags: tuple[str, ...] = ()  # for analysis, such as "fallback"; never rendered

    @property
    def cell(self) -> str:
        return f"{self.family}-{self.level}"

    def in_dialect(self, dialect: Dialect) -> Task:
        """This task with the limits of one dialect."""
        limits = (
            self.natural_limits
            if dialect is Dialect.NATURAL and self.natural_limits is not None
            else self.limits
        )
        return replace(self, limits=limits, natural_limits=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What only the trusted side may see: how to build the world and how to judge it."""

    task_id: str
    seed: int
    data: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One action. `raw` is the text that the policy sampled; `problem` says why it could not be parsed."""

    tool: str
    arguments: Mapping[str, Json]
    raw: str = ""
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is left of an attempt's limits."""

    turns: int
    calls: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """The world's answer to one call."""

    index: int  # of the call within the attempt, from 0
    call: Call
    text: str  # what the policy reads
    exit_code: int | None = None
    fault: Fault | None = None
    left: Budget | None = None
    ended: bool = False  # this call ended the episode
    truncated_bytes: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
