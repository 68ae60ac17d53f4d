"""Scripted agents in the places of a team: the same harness, the same tokens, no log-probabilities."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

from agito.harness.scripted import advance
from agito.protocols import Renderer, Row, Sampled, SampleRequest, Script, TeamScript
from agito.types import Event, FinishReason, ToolSpec, span


class ScriptedTeam:
    """The engine of one role, whose agents are played by scripts. Every agent has a seat."""

    context = 1 << 20

    def __init__(self, script: TeamScript, renderer: Renderer) -> None:
        self._script, self._renderer = script, renderer

    def seat(self, role: str, brief: str, tools: Sequence[ToolSpec]) -> ScriptedSeat:
        """`brief` is empty for the agent that begins; `tools`: those by which its turns are read."""
        script = self._script.member(role, brief) if brief else self._script()
        return ScriptedSeat(script, self._renderer, tools)

    def open(self, seed: int) -> Row:
        raise NotImplementedError("a script plays one agent: take a seat first")


class ScriptedSeat:
    """The engine of one agent. A script that returns says nothing more."""

    context = ScriptedTeam.context

    def __init__(self, script: Script, renderer: Renderer, tools: Sequence[ToolSpec]) -> None:
        self._script, self._renderer, self._tools = script, renderer, tools
        self._call = advance(script)

    def hear(self, events: Sequence[Event]) -> None:
        """What the agent read after its turn."""
        for event in events:
            self._call = None if event.ended else advance(self._script, event)

    def open(self, seed: int) -> Row:
        return _SeatRow(self)

    def next_turn(self, request: SampleRequest) -> Sampled:
        renderer = self._renderer
        said = renderer.action([self._call], self._tools) if self._call else array("i", renderer.stop_ids[:1])
        ids = said[: request.max_tokens]
        return Sampled(
            ids=ids,
            logprobs=array("f", [math.nan]) * len(ids),
            stopped=FinishReason.END if len(said) == len(ids) else FinishReason.LENGTH,
            versions=span(0, len(request.extend) + len(ids)),
        )


class _SeatRow:
    def __init__(self, seat: ScriptedSeat) -> None:
        self._seat = seat

    async def sample(self, request: SampleRequest) -> Sampled:
        return self._seat.next_turn(request)

    def branch(self, seed: int) -> Row:
        raise NotImplementedError("a script cannot be copied in the middle; act it again from the start")

    async def close(self) -> None:
        return
