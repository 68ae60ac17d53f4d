"""The interface of a renderer: messages to tokens, and tokens to calls."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Protocol

from agito.types import Call, Dialect, Event, Task, ToolSpec


class Renderer(Protocol):
    """Messages to tokens and back, in one dialect. Nothing is ever tokenised twice."""

    @property
    def dialect(self) -> Dialect: ...
    @property
    def stop_ids(self) -> tuple[int, ...]: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def chat_template(self) -> str:
        """A Jinja template with which `transformers` renders the same messages to the same tokens."""
        ...

    def files(self) -> Mapping[str, str]:
        """Files from which `transformers` reads tokenizer and chat template, by name."""
        ...

    def opening(self, task: Task) -> array[int]:
        """The prompt, up to and including the token that opens the policy's first turn."""
        ...

    def observation(self, events: Sequence[Event]) -> array[int]:
        """The tokens after the policy's end of turn: the events, then the token that opens its next turn."""
        ...

    def action(self, calls: Sequence[Call], tools: Sequence[ToolSpec]) -> array[int]:
        """The tokens by which a policy would make these calls, including its end of turn. For demonstrations
        only."""
        ...

    def parse(self, ids: Sequence[int], tools: Sequence[ToolSpec]) -> tuple[Call, ...]:
        """The calls in one sampled turn, at least one; text that cannot be parsed becomes a call with a
        `problem`."""
        ...

    def channels(self, ids: Sequence[int]) -> bytes:
        """A `Channel` for every sampled token of one turn."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """For people, special tokens included."""
        ...
