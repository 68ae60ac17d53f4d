"""Efforts and budgets by request, in the words of each API."""

from __future__ import annotations

import json
from array import array

import anyio
import anyio.lowlevel
import pytest
from tests.gateway.conftest import TOOLS, serving

from agito.gateway import Ask, Conversations, Terms, responses
from agito.gateway.api_request import REQUIRED
from agito.gateway.fields import Fields
from agito.protocols import Agent, AgentSpec, Row, Sampled, SampleRequest
from agito.render.messages import Message, Speaker
from agito.testing import FakeEngine
from agito.testing.renderers import END, END_THINK, THINK, ThinkingByteRenderer
from agito.types import Dialect, Effort, FinishReason, Json, Mode, Thinking, TokenSource, ToolSpec, span

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


class Dwelling:
    """Opens a block wherever none is open, and thinks on until it is stopped."""

    context = 1 << 12

    def open(self, seed: int) -> Row:
        return _Dwells()


class _Dwells:
    async def sample(self, request: SampleRequest) -> Sampled:
        await anyio.lowlevel.checkpoint()
        is_open = list(request.extend)[-1:] == [THINK]
        ids = array("i", [THINK] * (not is_open) + [97] * request.max_tokens)[: request.max_tokens]
        ids = ids[:1] if ids[0] in request.stop_ids else ids
        return Sampled(
            ids=ids,
            logprobs=array("f", [-1.0] * len(ids)),
            stopped=FinishReason.END if ids[-1] in request.stop_ids else FinishReason.LENGTH,
            versions=span(1, len(request.extend) + len(ids)),
        )

    def branch(self, seed: int) -> Row:
        raise NotImplementedError

    async def close(self) -> None:
        return


def dwelling(thinking: Thinking) -> Conversations:
    spec = AgentSpec(renderer=ThinkingByteRenderer(Dialect.NATURAL), thinking=thinking)
    return Conversations(Agent(spec=spec, engine=Dwelling()), seed=1, terms=Terms())


async def test_requests_side_by_side_share_what_is_left_of_an_attempts_budget() -> None:
    found = dwelling(Thinking(effort=Effort.HIGH, attempt_tokens=20))

    async def ask(number: int) -> None:
        said = Message(speaker=Speaker.USER, text=f"{number}")
        await found.answer(Ask(model="policy", messages=(said,), max_tokens=40))

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(ask, number)
    _, turns = found.record()
    assert len(turns) == 8 and sum(turn.num_thought for turn in turns) == 20


@pytest.mark.parametrize("choice", [REQUIRED, TOOLS[0].name])
async def test_a_turn_that_must_be_a_call_is_no_way_around_a_budget(choice: str) -> None:
    found = dwelling(Thinking(effort=Effort.HIGH, turn_tokens=5))
    said = Message(speaker=Speaker.USER, text="go")
    ask = Ask(model="policy", messages=(said,), tools=TOOLS, choice=choice, max_tokens=40)
    answer = await found.answer(ask)
    (segment,), (turn,) = found.record()
    assert (turn.effort, turn.num_thought, turn.think_budget) == (Effort.HIGH, 0, 0)
    inside, num = False, 0
    for token in segment.tokens.ids:
        num += inside and token != END_THINK
        inside = token == THINK or (inside and token != END_THINK)
    assert num == 0 and answer.num_thinking == 0
    assert TokenSource.FORCED in segment.tokens.kinds[turn.start : turn.stop], "blocks were closed again"


class Begun:
    """Goes on with a call that was begun for it."""

    context = 1 << 12

    def __init__(self, said: str) -> None:
        self._said = said

    def open(self, seed: int) -> Row:
        return _GoesOn(self._said)


class _GoesOn(_Dwells):
    def __init__(self, said: str) -> None:
        self._said = said

    async def sample(self, request: SampleRequest) -> Sampled:
        ids = array("i", [*self._said.encode(), END])
        return Sampled(
            ids=ids,
            logprobs=array("f", [-1.0] * len(ids)),
            stopped=FinishReason.END,
            versions=span(1, len(request.extend) + len(ids)),
        )


@pytest.mark.parametrize(("said", "num"), [('{"path": "a"}}', 0), ('{"path": "a", "why": "so"}}', 13)])
async def test_a_call_that_was_begun_for_a_policy_has_leaked_what_it_does_not_need(
    said: str, num: int
) -> None:
    spec = AgentSpec(
        renderer=ThinkingByteRenderer(Dialect.NATURAL), thinking=Thinking(effort=Effort.HIGH, turn_tokens=5)
    )
    tool = ToolSpec(
        name="look", description="", parameters={"type": "object", "properties": {"path": {"type": "string"}}}
    )
    found = Conversations(Agent(spec=spec, engine=Begun(said)), seed=1, terms=Terms())
    go = Message(speaker=Speaker.USER, text="go")
    await found.answer(Ask(model="policy", messages=(go,), tools=(tool,), choice="look", max_tokens=60))
    _, (turn,) = found.record()
    assert turn.num_leaked == num


async def test_a_summary_alone_says_nothing_of_effort() -> None:
    asked: list[tuple[dict[str, Json], Effort | None]] = [
        ({"summary": "auto"}, None),
        ({"effort": "high"}, Effort.HIGH),
    ]
    for reasoning, wanted in asked:
        body: dict[str, Json] = {"model": "m", "input": "hi", "reasoning": reasoning}
        found = responses.read(Fields(body), overrides=False).thinking
        assert (found and found.effort) == wanted


class Calling:
    """Goes on with the call that was begun for it, and closes a block where it is made to."""

    context = 1 << 12

    def open(self, seed: int) -> Row:
        return _Calls()


class _Calls:
    def __init__(self) -> None:
        self._left = [*b'{"path": "a"}}', END]

    async def sample(self, request: SampleRequest) -> Sampled:
        await anyio.lowlevel.checkpoint()
        if request.first is not None and request.first.is_wanted:
            ids = array("i", [request.first.id])
        else:
            ids = array("i", self._left[: request.max_tokens])
            self._left = self._left[request.max_tokens :]
        return Sampled(
            ids=ids,
            logprobs=array("f", [-1.0] * len(ids)),
            stopped=FinishReason.END if ids[-1] == END else FinishReason.LENGTH,
            versions=span(1, len(request.extend) + len(ids)),
        )

    def branch(self, seed: int) -> Row:
        raise NotImplementedError

    async def close(self) -> None:
        return


@pytest.mark.parametrize("mode", [None, *Mode])
async def test_a_call_that_is_forced_at_auto_is_no_choice_and_comes_whole(mode: Mode | None) -> None:
    thinking = Thinking(effort=Effort.AUTO, turn_tokens=5, mode=mode)
    spec = AgentSpec(renderer=ThinkingByteRenderer(Dialect.NATURAL), thinking=thinking)
    found = Conversations(Agent(spec=spec, engine=Calling()), seed=1, terms=Terms())
    path: Json = {"path": {"type": "string"}}
    look = ToolSpec(name="look", description="", parameters={"type": "object", "properties": path})
    said = (Message(speaker=Speaker.USER, text="go"),)
    asked = Ask(model="p", messages=said, tools=(look,), choice="look", max_tokens=60)
    answer = await found.answer(asked)
    ((turn,), (use,)) = (found.record()[1], answer.said.uses)
    assert use.parsed() == {"path": "a"} and (turn.mode, turn.is_steered, turn.num_leaked) == (None, False, 0)


async def test_of_first_requests_side_by_side_one_alone_chooses_the_mode() -> None:
    found = dwelling(Thinking(effort=Effort.AUTO, turn_tokens=4, mode=Mode.ACT))

    async def ask(number: int) -> None:
        said = Message(speaker=Speaker.USER, text=f"{number}")
        await found.answer(Ask(model="policy", messages=(said,), max_tokens=20))

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(ask, number)
    _, turns = found.record()
    assert [turn.is_steered for turn in turns] == [True, False, False, False]
    assert turns[0].mode is not None and {turn.mode for turn in turns[1:]} == {None}
