"""Whatever a client does with its history: no token is trained under a prefix that the sampler did not see,
and none twice.
"""

from __future__ import annotations

from collections import Counter

import pytest

from agito.gateway import Ask, Conversations, Refused, Terms
from agito.gateway.tree import Way
from agito.protocols import Agent, AgentSpec
from agito.render.messages import Message, Speaker, ToolUse
from agito.testing import ByteRenderer, ReplayEngine
from agito.testing.fakes import TOOLS, call
from agito.testing.histories import attempt
from agito.types import Dialect, FinishReason

pytestmark = pytest.mark.anyio
RENDERER = ByteRenderer(Dialect.NATURAL)
OPEN = list(RENDERER.action((call("open", 1),), TOOLS))
TEXT = [*b"I am done", 256]


def conversations(*turns: list[int], overrides: bool = True) -> tuple[Conversations, ReplayEngine]:
    engine = ReplayEngine(turns=turns or (OPEN, TEXT))
    agent = Agent(spec=AgentSpec(renderer=RENDERER), engine=engine)
    return Conversations(agent, seed=3, terms=Terms(overrides=overrides)), engine


def user(text: str) -> Message:
    return Message(speaker=Speaker.USER, text=text)


def result(text: str, answers: str = "") -> Message:
    return Message(speaker=Speaker.TOOL, text=text, answers=answers)


async def say(to: Conversations, *messages: Message, **more: object) -> Message:
    answer = await to.answer(Ask(model="", messages=messages, tools=TOOLS, **more))  # pyright: ignore[reportArgumentType]
    return Message(speaker=Speaker.ASSISTANT, text=answer.said.text, uses=answer.said.uses)


async def test_two_thousand_rewritten_cut_reordered_interleaved_and_branching_histories_violate_nothing() -> (
    None
):
    found, ways, num = list[str](), Counter[Way](), 0
    for seed in range(120):
        client = await attempt(seed, 20)
        found += client.violations
        num += client.num_requests
        ways.update(client.conversations.tree.meter.turns)
    assert not found, found[:3]
    assert num > 2000 and min(ways[way] for way in Way) > num / 20, (num, ways)


async def test_the_same_history_goes_on_with_the_same_row_and_only_what_is_new_is_computed() -> None:
    to, engine = conversations()
    first = await say(to, user("hi"))
    await say(to, user("hi"), first, result("empty", first.uses[0].id))
    assert engine.num_rows == 1
    assert engine.exchanges[1].request.extend == RENDERER.continuation([result("empty")])
    assert to.tree.meter.share_of_turns == to.tree.meter.share_of_tokens == 1.0


@pytest.mark.parametrize("arguments", ['{"box":"1"}', '{"box": "1" }', '{\n  "box": "1"\n}'])
async def test_arguments_that_come_back_otherwise_open_a_segment_with_what_came_back(arguments: str) -> None:
    to, engine = conversations()
    first = await say(to, user("hi"))
    rewritten = Message(
        speaker=Speaker.ASSISTANT, uses=(ToolUse(tool="open", arguments=arguments, id=first.uses[0].id),)
    )
    history = (user("hi"), rewritten, result("empty"))
    await say(to, *history)
    assert engine.exchanges[1].request.extend == RENDERER.conversation(history, TOOLS)
    assert to.tree.meter.turns[Way.REWRITTEN] == 1
    assert to.tree.meter.first.startswith(
        'messages[1].tool_calls[0].function.arguments: \'{"box": "1"}\' came back as'
    )


async def test_an_answer_of_a_clients_own_is_part_of_the_history_that_ours_answered() -> None:
    to, engine = conversations(OPEN, OPEN, TEXT)
    own = (user("hi"), Message(speaker=Speaker.ASSISTANT, text="Got it."), user("begin"))
    first = await say(to, *own)
    history = (*own, first, result("empty", first.uses[0].id))
    second = await say(to, *history)
    await say(to, *history, second, result("empty", second.uses[0].id))
    assert engine.num_rows == 1 and to.tree.meter.share_of_turns == 1.0
    assert engine.exchanges[0].request.extend == RENDERER.conversation(own, TOOLS)
    assert to.tree.meter.turns[Way.OPENED] == 1


@pytest.mark.parametrize("what", ["its text", "its arguments", "its place"])
async def test_a_turn_that_was_changed_costs_one_segment_and_what_is_kept_behind_it_stays(what: str) -> None:
    """What stays was not sampled in the spelling in which it comes back."""
    to, engine = conversations(OPEN, [*b'{"tool":"open","arguments":{"box":"2"}}', 256], TEXT)
    first = await say(to, user("hi"))
    changed = {
        "its text": Message(speaker=Speaker.ASSISTANT, text="I opened a box"),
        "its arguments": Message(
            speaker=Speaker.ASSISTANT, uses=(ToolUse(tool="open", arguments='{"box":"1"}', id="a"),)
        ),
        "its place": first,
    }[what]
    history = (*([user("before")] if what == "its place" else []), user("hi"), changed, user("go on"))
    second = await say(to, *history)
    assert second.uses[0].arguments == '{"box": "2"}'
    await say(to, *history, second, user("and on"))
    meter = to.tree.meter
    assert (meter.turns[Way.REWRITTEN], meter.turns[Way.CONTINUED], engine.num_rows) == (1, 1, 2)
    assert engine.exchanges[1].request.extend == RENDERER.conversation(history, TOOLS)
    assert engine.exchanges[2].request.extend == RENDERER.continuation([user("and on")])


async def test_a_client_that_compacts_arguments_is_answered_them_so_and_stays_on_its_row() -> None:
    turn = list(RENDERER.action((call("open", "é 1"),), TOOLS))
    engine = ReplayEngine(turns=(turn, TEXT))
    agent = Agent(spec=AgentSpec(renderer=RENDERER), engine=engine)
    to = Conversations(agent, seed=3, terms=Terms(compact=True))
    first = await say(to, user("hi"))
    assert first.uses[0].arguments == '{"box":"é 1"}'
    await say(to, user("hi"), first, result("empty", first.uses[0].id))
    assert engine.num_rows == 1 and to.tree.meter.share_of_turns == 1.0


async def test_a_history_that_was_rewritten_to_the_very_same_tokens_stays_on_its_row() -> None:
    to, engine = conversations(TEXT, TEXT)
    await say(to, user("hi"))
    same = Message(
        speaker=Speaker.ASSISTANT, text="I am done", thinking="invented, and not rendered by these bytes"
    )
    await say(to, user("hi"), same, user("go on"))
    assert engine.num_rows == 1 and to.tree.meter.turns[Way.CONTINUED] == 1


async def test_a_retry_and_a_parallel_branch_begin_with_the_very_same_tokens_and_train_them_once() -> None:
    to, engine = conversations(OPEN, TEXT, TEXT, TEXT)
    first = await say(to, user("hi"))
    for text in ("a", "b", "b"):
        await say(to, user("hi"), first, result(text))
    segments, turns = to.record()
    assert [segment.parent for segment in segments] == [None, 0, 0]
    shared = turns[0].stop
    assert [segment.prefix_len for segment in segments] == [0, shared, shared]
    assert all(segment.tokens.ids[:shared] == segments[0].tokens.ids[:shared] for segment in segments)
    assert [sum(segment.tokens.is_sampled[:shared]) for segment in segments] == [len(OPEN), 0, 0]
    assert len({engine.exchanges[number].row for number in (1, 2, 3)}) == 3


async def test_ids_say_which_of_two_equal_answers_a_client_goes_on_from() -> None:
    to, _ = conversations(OPEN)
    one, two = await say(to, user("hi")), await say(to, user("hi"))
    assert one.uses[0].id != two.uses[0].id
    await say(to, user("hi"), two, result("empty", two.uses[0].id))
    segments, turns = to.record()
    assert len(segments) == 2 and turns[-1].segment == turns[1].segment


async def test_an_answer_cut_at_a_stop_sequence_is_shown_cut_and_not_gone_on_with() -> None:
    to, engine = conversations(*([token] for token in b"thought;"), TEXT)
    cut = await say(to, user("hi"), stop=(";",))
    assert cut.text == "thought"
    history = (user("hi"), cut, user("go on"))
    await say(to, *history)
    assert engine.tokens(1)[: len(engine.exchanges[-1].request.extend)] == RENDERER.conversation(
        history, TOOLS
    )


async def test_nothing_is_sampled_behind_a_stop_sequence() -> None:
    to, _ = conversations(*([token] for token in b"ab;cd"))
    await say(to, user("hi"), stop=(";",))
    _, turns = to.record()
    assert [(turn.stop - turn.start, turn.stopped) for turn in turns] == [(3, FinishReason.LENGTH)]


async def test_a_tool_that_must_be_called_is_begun_by_force_and_its_beginning_is_not_trained() -> None:
    to, _ = conversations([*b'{"box": "4"}}', 256])
    said = await say(to, user("hi"), choice="open")
    assert [(use.tool, use.arguments) for use in said.uses] == [("open", '{"box": "4"}')]
    (segment,), (turn,) = to.record()
    begun = RENDERER.begun("open")
    assert segment.tokens.ids[turn.start - len(begun) : turn.start] == begun
    assert not any(segment.tokens.is_sampled[: turn.start])


async def test_a_history_that_does_not_fit_is_refused_and_leaves_everything_as_it_was() -> None:
    to, engine = conversations()
    first = await say(to, user("hi"))
    with pytest.raises(Refused, match="a context holds"):
        await say(to, user("hi"), first, result("x" * (1 << 15)))
    await say(to, user("hi"), first, result("empty"))
    assert engine.num_rows == 1


async def test_what_is_forgotten_is_begun_anew_and_not_sampled_the_same_again() -> None:
    to, engine = conversations(OPEN)
    first = await say(to, user("hi"))
    for number in range(8):
        await say(to, user(str(number)))
    assert await to.forget(2)
    await say(to, user("hi"), first, result("empty"))
    assert engine.num_open <= 3 and len(to.tree.lines) == 3
    assert to.tree.meter.turns[Way.REWRITTEN] == 1


async def test_lines_in_use_are_not_forgotten_however_many_there_are() -> None:
    to, engine = conversations(OPEN)
    for number in range(9):
        await say(to, user(str(number)))
    busy = to.tree.lines[:5]
    for line in busy:
        line.is_busy = True
    assert await to.forget(2)
    assert all(line.is_open and line in to.tree.lines for line in busy)
    assert engine.num_open == len(to.tree.lines) == 5, "the rest is closed"
