"""How each effort is asked for, and what counts as thinking, in own vocabularies and in chat templates."""

from __future__ import annotations

from functools import cache

import pytest
from tests.render.families import VARIABLES, byte_level
from tests.render.test_families import SOURCES, TASK, TOOLS, sh

from agito.protocols import ThinkingRenderer, ThoughtfulCall
from agito.render import ChatRenderer, learn, renderer
from agito.render.messages import Message, Speaker
from agito.render.tokenizer import ModelTokenizer
from agito.types import Budget, Call, Channel, Dialect, Effort, Event

TEXTS = ["find kev", "ls -p", "kev mak", "13"]
EFFORTS = [Effort.NONE, Effort.LOW, Effort.MEDIUM, Effort.HIGH, Effort.AUTO]


@cache
def chat(name: str) -> ChatRenderer:
    held = ModelTokenizer(byte_level(SOURCES[name]).to_str())
    return ChatRenderer(held, SOURCES[name], variables=VARIABLES)


def own(dialect: Dialect, effort: Effort) -> ThinkingRenderer:
    return renderer(dialect, learn(TEXTS * 20, size=360, asks_effort=True)).asking(effort)  # type: ignore[attr-defined]


def event(call: Call) -> Event:
    return Event(index=0, call=call, text="ok", left=Budget(turns=7, calls=7, tokens=100))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("effort", [Effort.NONE, Effort.HIGH])
def test_a_thoughtful_turn_is_written_and_read_back_in_every_family(name: str, effort: Effort) -> None:
    asked = chat(name).asking(effort)
    call = ThoughtfulCall(tool="sh", arguments={"command": "ls -l"}, thinking="zebra é 東京")
    ids = asked.action([call], TOOLS)
    (read,) = asked.parse(ids, TOOLS)
    assert (read.tool, dict(read.arguments), read.problem) == ("sh", {"command": "ls -l"}, None)
    thought = asked.thought(ids, TOOLS)
    assert (thought.num_tokens > 0, thought.is_open) == (effort is not Effort.NONE, False)
    assert thought.num_leaked == 0
    channels = asked.channels(ids)
    called = asked.text([token for token, at in zip(ids, channels, strict=True) if at == Channel.CALL])
    assert "zebra" not in called and "ls" in called


@pytest.mark.parametrize("name", SOURCES)
def test_a_turn_opens_within_a_block_and_for_none_behind_an_empty_one(name: str) -> None:
    for effort in EFFORTS:
        asked = chat(name).asking(effort)
        begin, end = ("<|channel|>analysis", "<|end|>") if name == "gptoss" else ("<think>", "</think>")
        for ids in (asked.opening(TASK), asked.observation([event(sh("ls"))])):
            text = asked.text(ids)
            closed = text.rstrip().removesuffix("<|start|>assistant").endswith(end)
            assert closed == (effort is Effort.NONE), (effort, text[-60:])
            assert begin in text[-60:]


@pytest.mark.parametrize("name", SOURCES)
def test_every_effort_is_asked_for_in_words_and_adds_no_token_to_the_vocabulary(name: str) -> None:
    asked = [chat(name).asking(effort) for effort in EFFORTS]
    assert len({each.text(each.opening(TASK)) for each in asked}) == len(EFFORTS)
    assert {each.vocab_size for each in asked} == {chat(name).vocab_size}


def test_qwen3_has_its_switch_and_its_empty_block_and_gptoss_its_level() -> None:
    none, high = (chat("qwen3").asking(effort) for effort in (Effort.NONE, Effort.HIGH))
    assert none.text(none.opening(TASK)).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert "/no_think<|im_end|>" in none.text(none.opening(TASK))
    assert "/think<|im_end|>" in high.text(high.opening(TASK))
    assert "Reasoning effort: high." in high.text(high.opening(TASK))
    low = chat("gptoss").asking(Effort.LOW)
    assert "Reasoning: low" in low.text(low.opening(TASK))


@pytest.mark.parametrize("name", SOURCES)
def test_a_client_s_conversation_is_told_the_effort_once_whatever_it_begins_with(name: str) -> None:
    asked, line = chat(name).asking(Effort.LOW), "Reasoning effort: low."
    user = Message(speaker=Speaker.USER, text="hi")
    for messages in ((user,), (Message(speaker=Speaker.SYSTEM, text="be brief"), user)):
        if len(messages) == 2 and name in ("like_gemma", "like_mistral"):
            continue  # these take no system message, neither ours nor a client's
        text = chat(name).text(chat(name).conversation(asked.told(messages), TOOLS))
        assert text.count(line) == 1 and "hi" in text


@pytest.mark.parametrize("name", SOURCES)
def test_a_second_block_right_behind_the_first_is_thinking_too(name: str) -> None:
    asked = chat(name).asking(Effort.HIGH)
    begin = "<|channel|>analysis<|message|>" if name == "gptoss" else "<think>"
    once = [*asked._encode("a"), *asked.closer]  # pyright: ignore[reportPrivateUsage]
    twice = [*once, *asked._encode(f"{begin}bc")]  # pyright: ignore[reportPrivateUsage]
    assert asked.thought(once).may_reopen and not asked.thought(once).is_open
    assert asked.thought(twice).is_open and asked.thought(twice).num_tokens == 3
    assert not asked.thought([*once, *asked._encode("x <think>bc")]).is_open  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("dialect", Dialect)
def test_own_dialects_ask_by_a_token_before_the_block(dialect: Dialect) -> None:
    for effort in EFFORTS:
        asked = own(dialect, effort)
        closed = "</think>" if effort is Effort.NONE else ""
        assert asked.text(asked.opener) == f"<|{effort}|><think>{closed}"
        call = ThoughtfulCall(tool="sh", arguments={"command": "ls"}, thinking="kev mak")
        ids = asked.action([call], TOOLS)
        (read,) = asked.parse(ids, TOOLS)
        assert dict(read.arguments) == {"command": "ls"} and read.problem is None
        assert asked.thought(ids, TOOLS).num_leaked == 0
        assert asked.thought(ids).num_tokens == (0 if effort is Effort.NONE else 3)


def test_a_recipe_without_effort_renders_as_if_there_were_none() -> None:
    plain, more = (
        learn(TEXTS * 20, size=size, asks_effort=asks) for size, asks in ((340, False), (345, True))
    )
    for dialect in Dialect:
        one, other = renderer(dialect, plain), renderer(dialect, more)
        assert one.opening(TASK) == other.opening(TASK)
    with pytest.raises(ValueError, match=r"no token for it; train with effort\.settings"):
        renderer(Dialect.COMPACT, plain).asking(Effort.LOW)  # type: ignore[attr-defined]


def test_a_further_block_is_thinking_like_the_first() -> None:
    asked = own(Dialect.COMPACT, Effort.HIGH)
    ids = list(asked.action([ThoughtfulCall(tool="sh", arguments={"command": "ls"}, thinking="kev")], TOOLS))
    think, end_think = asked.reopeners[0], asked.closer[0]
    at = ids.index(end_think) + 1
    again = [*ids[:at], think, *ids[: at - 1], *ids[: at - 1], end_think, *ids[at:]]
    assert asked.thought(again, TOOLS).num_tokens == 3 and asked.thought(again, TOOLS).num_leaked == 0


def test_a_turn_that_ends_within_a_thought_calls_nothing() -> None:
    asked = own(Dialect.COMPACT, Effort.HIGH)
    ids = [*asked.action([sh("ls")], TOOLS)[1:]]
    (read,) = asked.parse(ids, TOOLS)
    assert read.problem == "the turn ended within a thought"
