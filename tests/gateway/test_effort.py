"""Efforts and budgets by request, in the words of each API."""

from __future__ import annotations

import json

import pytest
from tests.gateway.conftest import TOOLS, serving

from agito.gateway.fields import Fields
from agito.testing import FakeEngine
from agito.testing.renderers import END, END_THINK, THINK, ThinkingByteRenderer
from agito.types import Dialect, Effort, Json, Thinking, TokenSource

pytestmark = pytest.mark.anyio
HI = [{"role": "user", "content": "hi"}]
ASKED: list[tuple[dict[str, Json], Thinking | None]] = [
    ({}, None),
    ({"reasoning_effort": "none"}, Thinking(effort=Effort.NONE)),
    ({"reasoning_effort": "auto"}, Thinking(effort=Effort.AUTO)),
    ({"enable_thinking": False}, Thinking(effort=Effort.NONE)),
    ({"chat_template_kwargs": {"enable_thinking": True}}, Thinking(effort=Effort.HIGH)),
    ({"thinking": {"budget_tokens": 7}}, Thinking(effort=Effort.LOW, turn_tokens=7)),
    ({"thinking": {"type": "disabled"}}, Thinking(effort=Effort.NONE)),
    (
        {"reasoning_effort": "high", "thinking": {"type": "enabled", "budget_tokens": 3}},
        Thinking(effort=Effort.HIGH, turn_tokens=3),
    ),
]


@pytest.mark.parametrize(("body", "thinking"), ASKED, ids=[json.dumps(body) for body, _ in ASKED])
async def test_a_request_says_how_much_is_thought(body: dict[str, Json], thinking: Thinking | None) -> None:
    assert Fields(body).thinking() == thinking


@pytest.mark.parametrize("budget", [0, 1, 5])
async def test_a_budget_in_a_request_is_enforced(budget: int) -> None:
    engine = FakeEngine(vocab_size=ThinkingByteRenderer.vocab_size, context=1024)
    async with serving(engine, ThinkingByteRenderer(Dialect.NATURAL)) as served:
        for seed in range(12):
            answer = await served.ask(
                HI, TOOLS, thinking={"budget_tokens": budget}, max_tokens=40, seed=seed, logprobs=True
            )
            assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] <= budget
        segments, turns = served.conversations.record()
        assert len(turns) == 12
        for turn in turns:
            (segment,) = [each for each in segments if each.id == turn.segment]
            inside, num, forced = segment.tokens.ids[turn.start - 1] == THINK, 0, 0
            for at in range(turn.start, turn.stop):
                token = segment.tokens.ids[at]
                forced += segment.tokens.kinds[at] == TokenSource.FORCED
                num += inside and token not in (END_THINK, END)
                inside = token == THINK or (inside and token != END_THINK)
            assert num <= budget and (turn.effort, turn.think_budget) == (Effort.LOW, budget)


async def test_without_a_word_on_thinking_a_request_is_rendered_as_before() -> None:
    engine = FakeEngine(vocab_size=ThinkingByteRenderer.vocab_size, context=1024)
    async with serving(engine, ThinkingByteRenderer(Dialect.NATURAL)) as served:
        await served.ask(HI, TOOLS, max_tokens=4)
        await served.ask([{"role": "user", "content": "ho"}], TOOLS, max_tokens=4, reasoning_effort="high")
        segments, _ = served.conversations.record()
        assert [THINK in segment.tokens.ids[:8] for segment in segments] == [False, True]


async def test_past_thinking_stays_on_its_row_whether_a_client_sends_it_back_or_not() -> None:
    engine = FakeEngine(vocab_size=ThinkingByteRenderer.vocab_size, context=1024)
    async with serving(engine, ThinkingByteRenderer(Dialect.NATURAL)) as served:
        asked = {"thinking": {"budget_tokens": 3}, "max_tokens": 12}
        message = (await served.ask(HI, (), **asked))["choices"][0]["message"]
        (before,), _ = served.conversations.record()
        said = {"role": "assistant", "content": message["content"]}
        await served.ask([*HI, said, {"role": "user", "content": "go on"}], (), **asked)
        segments, turns = served.conversations.record()
        assert len(segments) == 1 and [turn.num_thought <= 3 for turn in turns] == [True, True]
        assert segments[0].tokens.ids[: len(before.tokens)] == before.tokens.ids
        assert sum(turn.num_thought for turn in turns) > 0
