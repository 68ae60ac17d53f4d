"""A scripted agent in the policy's place: the same harness, the same tokens, no log-probabilities.

It stands on both sides of the harness: as the engine it says what the script does next, as the session it
lets the script see what came of it.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import cast

from agito.protocols import (
    Renderer,
    Row,
    Sampled,
    SampleRequest,
    Script,
    ScriptFactory,
    Session,
    ThinkingRenderer,
    ThoughtfulCall,
)
from agito.types import Budget, Call, Event, FinishReason, ToolSpec, span


class ScriptedAgent:
    """An `Engine` and a `Session` around one script; a script that returns without `submit` says nothing
    more.
    """

    context = 1 << 20

    def __init__(self, script: ScriptFactory, session: Session, renderer: Renderer) -> None:
        self._script: Script = script()
        self._session, self._renderer = session, renderer
        self._call = advance(self._script)
        self._rest = array("i")  # of a turn that a budget cut in two

    @property
    def tools(self) -> tuple[ToolSpec, ...]:
        return self._session.tools

    async def act(self, calls: Sequence[Call], left: Budget) -> tuple[Event, ...]:
        events = await self._session.act(calls, left)
        self._rest = array("i")
        for event in events:
            self._call = None if event.ended else advance(self._script, event)
        return events

    def open(self, seed: int) -> Row:
        return _ScriptedRow(self)

    def next_turn(self, request: SampleRequest) -> Sampled:
        ids = self._rest or self._begun(request.extend)
        stopped = FinishReason.END if len(ids) <= request.max_tokens else FinishReason.LENGTH
        ids, self._rest = ids[: request.max_tokens], ids[request.max_tokens :]
        if isinstance(self._renderer, ThinkingRenderer) and self._renderer.thought(ids).is_open:
            self._rest = self._said(thinks=False)[len(self._renderer.closer) :]
        return Sampled(
            ids=ids,
            logprobs=array("f", [math.nan]) * len(ids),
            stopped=stopped,
            versions=span(0, len(request.extend) + len(ids)),
        )

    def _begun(self, shown: Sequence[int]) -> array[int]:
        """Where the block was closed before the turn began, the call alone."""
        renderer = self._renderer
        closer = renderer.closer if isinstance(renderer, ThinkingRenderer) else array("i")
        if closer and array("i", shown[-len(closer) :]) == closer:
            said = self._said(thinks=False)
            if said[: len(closer)] == closer:
                return said[len(closer) :]
        return self._said()

    def _said(self, *, thinks: bool = True) -> array[int]:
        call = self._call
        if call is None:
            return array("i", self._renderer.stop_ids[:1])
        if isinstance(call, ThoughtfulCall) and not thinks:
            call = replace(call, thinking="")
        return self._renderer.action([call], self.tools)


class _ScriptedRow:
    def __init__(self, agent: ScriptedAgent) -> None:
        self._agent = agent

    async def sample(self, request: SampleRequest) -> Sampled:
        return self._agent.next_turn(request)

    def branch(self, seed: int) -> Row:
        raise NotImplementedError("a script cannot be copied in the middle; act it again from the start")

    async def close(self) -> None:
        return


def advance(script: Iterator[Call], event: Event | None = None) -> Call | None:
    """The script's next call, or its first; None when it has nothing more to do. One that reads no event may
    be any iterator.
    """
    if event is None or not isinstance(script, Generator):
        return next(script, None)
    try:
        return cast("Script", script).send(event)
    except StopIteration:
        return None


def end(script: Iterator[Call]) -> None:
    """Nothing more is asked of it."""
    if isinstance(script, Generator):
        script.close()
