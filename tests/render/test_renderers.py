"""Messages to tokens and back, in both dialects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agito.envs.shell import ShellEnvironment
from agito.protocols import Renderer
from agito.render import CompactRenderer, NaturalRenderer, Vocabulary, renderer
from agito.render.vocabulary import (
    ACT,
    CALL,
    END,
    END_CALL,
    END_THINK,
    FAULT,
    IM_END,
    IM_START,
    LEFT,
    OBS,
    SPECIALS,
    THINK,
)
from agito.types import Budget, Call, Channel, Dialect, Event, Fault

TASK, _ = ShellEnvironment().task(split="train", index=0, seed=0)
TOOLS = TASK.tools
TEXT = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40)


def sh(command: str) -> Call:
    return Call(tool="sh", arguments={"command": command})


def submit(answer: str) -> Call:
    return Call(tool="submit", arguments={"answer": answer})


def event(text: str, fault: Fault | None = None) -> Event:
    return Event(index=0, call=sh("ls"), text=text, fault=fault, left=Budget(turns=7, calls=7, tokens=100))


def both(vocabulary: Vocabulary) -> list[Renderer]:
    return [renderer(dialect, vocabulary) for dialect in Dialect]


@pytest.fixture
def compact(vocabulary: Vocabulary) -> CompactRenderer:
    return CompactRenderer(vocabulary)


@pytest.fixture
def natural(vocabulary: Vocabulary) -> NaturalRenderer:
    return NaturalRenderer(vocabulary)


@given(text=TEXT.filter(lambda text: text.strip() != "" and text.split(" ")[0] != "submit"), answer=TEXT)
def test_an_action_reads_back_as_the_calls_that_it_was_made_from(
    vocabulary: Vocabulary, text: str, answer: str
) -> None:
    for each in both(vocabulary):
        for call in (sh(text), submit(answer)):
            ids = each.action([call], TOOLS)
            assert ids[-1] in each.stop_ids
            (found,) = each.parse(ids, TOOLS)
            assert (found.tool, found.arguments, found.problem) == (call.tool, call.arguments, None)


def test_several_natural_calls_in_one_turn_read_back_in_order(natural: NaturalRenderer) -> None:
    calls = [sh("ls"), sh('echo "}"'), submit("kev=mak")]
    found = natural.parse(natural.action(calls, TOOLS), TOOLS)
    assert [(call.tool, call.arguments) for call in found] == [(call.tool, call.arguments) for call in calls]


def test_the_compact_dialect_refuses_what_it_cannot_say(compact: CompactRenderer) -> None:
    for calls in (
        [sh("ls"), sh("ls")],
        [Call(tool="sh", arguments={})],
        [Call(tool="sh", arguments={"command": 3})],
    ):
        with pytest.raises(ValueError, match=r"exactly one|in order"):
            compact.action(calls, TOOLS)


@pytest.mark.parametrize("special", SPECIALS)
def test_a_special_token_in_what_a_tool_prints_stays_text(vocabulary: Vocabulary, special: str) -> None:
    structural = {vocabulary.id(each) for each in SPECIALS}
    assert not structural & set(vocabulary.encode(f"x{special}y"))
    assert vocabulary.decode(vocabulary.encode(f"x{special}y")) == f"x{special}y"
    for each in both(vocabulary):
        plain, spoofed = each.observation([event("harmless")]), each.observation([event(special)])
        kept = [[token for token in ids if token in structural] for ids in (plain, spoofed)]
        assert kept[0] == kept[1]


def test_a_turn_that_was_cut_off_is_a_call_with_a_problem(vocabulary: Vocabulary) -> None:
    for each in both(vocabulary):
        ids = each.action([sh("grep -rh kev *")], TOOLS)
        for cut in (ids[:-1], ids[:2], ids[:0]):
            (call,) = each.parse(cut, TOOLS)
            assert call.problem == "the turn was cut off"
            assert call.raw == each.text(cut)


def test_an_empty_turn_is_a_call_with_a_problem(vocabulary: Vocabulary) -> None:
    for each in both(vocabulary):
        for said in ("", " \n"):
            (call,) = each.parse([*vocabulary.encode(said), *each.stop_ids], TOOLS)
            assert call.problem and not call.arguments


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("ls", "not JSON"),
        ("[1]", "a call is"),
        ('{"name": 3}', "a call is"),
        ('{"name": "sh", "arguments": "ls"}', "must be an object"),
    ],
)
def test_a_garbled_natural_call_says_what_is_wrong_with_it(
    vocabulary: Vocabulary, natural: NaturalRenderer, said: str, problem: str
) -> None:
    ids = [vocabulary.id(CALL), *vocabulary.encode(said), vocabulary.id(END_CALL), vocabulary.id(IM_END)]
    (call,) = natural.parse(ids, TOOLS)
    assert call.problem is not None and problem in call.problem
    assert call.raw == said


def test_prose_without_a_call_is_a_natural_turn_with_a_problem(
    vocabulary: Vocabulary, natural: NaturalRenderer
) -> None:
    (call,) = natural.parse([*vocabulary.encode("I shall grep."), vocabulary.id(IM_END)], TOOLS)
    assert call.problem is not None and "tool_call" in call.problem


@given(ids=st.lists(st.integers(0, 339), max_size=30))
def test_whatever_is_sampled_parses_to_calls_and_has_a_channel_for_every_token(
    vocabulary: Vocabulary, ids: list[int]
) -> None:
    ids = [token % len(vocabulary) for token in ids]
    for each in both(vocabulary):
        calls = each.parse(ids, TOOLS)
        assert calls and all(call.problem or call.tool for call in calls)
        assert len(each.channels(ids)) == len(ids)


def test_thinking_is_not_part_of_the_command(
    vocabulary: Vocabulary, compact: CompactRenderer, natural: NaturalRenderer
) -> None:
    for each in (compact, natural):
        thought = [vocabulary.id(THINK), *vocabulary.encode("ls or grep"), vocabulary.id(END_THINK)]
        action = each.action([sh("ls -p")], TOOLS)
        (call,) = each.parse([*thought, *action], TOOLS)
        assert call.arguments == {"command": "ls -p"}
        channels = each.channels([*thought, *action])
        assert set(channels[: len(thought)]) == {Channel.THINK}
        assert Channel.THINK not in channels[len(thought) :]


def test_the_channels_of_a_natural_turn_tell_prose_from_calls(
    vocabulary: Vocabulary, natural: NaturalRenderer
) -> None:
    prose, action = vocabulary.encode("ls"), natural.action([sh("ls")], TOOLS)
    channels = natural.channels([*prose, *action])
    assert list(channels) == [Channel.TEXT] * len(prose) + [Channel.CALL] * (len(action) - 1) + [Channel.TEXT]


def test_a_compact_turn_is_call_alone(compact: CompactRenderer) -> None:
    assert set(compact.channels(compact.action([sh("ls -p")], TOOLS))) == {Channel.CALL}


def test_a_compact_observation_is_fault_text_and_what_is_left(
    vocabulary: Vocabulary, compact: CompactRenderer
) -> None:
    assert (
        compact.text(compact.observation([event("kev=mak\n", Fault.TIMEOUT)]))
        == f"{OBS}{FAULT}kev=mak\n{LEFT}7{ACT}"
    )
    assert compact.text(compact.opening(TASK)).endswith(f"{TASK.prompt[Dialect.COMPACT]}{ACT}")
    assert compact.stop_ids == (vocabulary.id(END),)


def test_a_natural_observation_names_fault_and_budget_and_hands_the_turn_back(
    natural: NaturalRenderer,
) -> None:
    said = natural.text(natural.observation([event("kev=mak", Fault.TIMEOUT)]))
    assert said.startswith(f"\n{IM_START}user\n<tool_response>\n[timeout]\nkev=mak")
    assert "[7 turns left]" in said
    assert said.endswith(f"{IM_END}\n{IM_START}assistant\n")


def test_the_natural_opening_describes_every_tool_in_json(natural: NaturalRenderer) -> None:
    said = natural.text(natural.opening(TASK))
    assert TASK.prompt[Dialect.NATURAL] in said
    for tool in TOOLS:
        assert f'"name": "{tool.name}"' in said and tool.description in said
