"""Whatever a policy says ends in a call that a world can answer, in bounded time: no exception, no value that
breaks a tool.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agito.harness.endpoint import _Answer, _calls  # pyright: ignore[reportPrivateUsage]
from agito.render import CompactRenderer, NaturalRenderer, learn, policy_json
from agito.render.vocabulary import CALL, END, END_CALL, END_THINK, IM_END, THINK
from agito.types import Call, Json, ToolSpec
from agito.worlds.mcp.component import misfit

VOCABULARY = learn(['{"name": "open", "arguments": {"box": 1}} [[[[ 000 submit'] * 3, size=400)
NATURAL, COMPACT = NaturalRenderer(VOCABULARY), CompactRenderer(VOCABULARY)
KINDS = ("string", "integer", "number", "boolean", "array", "object")
TOOLS = tuple(
    ToolSpec(
        name=f"take_{kind}",
        description="",
        parameters={"type": "object", "properties": {"x": {"type": kind}, "y": {"type": "string"}}},
    )
    for kind in KINDS
)
HARD = {
    "nested, open": "[" * 100_000,
    "nested, closed": "[" * 1200 + "]" * 1200,
    "objects in objects": '{"x":' * 1200 + "1" + "}" * 1200,
    "brackets in a string": json.dumps("[" * 5000),
    "400 digits": "9" * 400,
    "5000 digits": "9" * 5000,
    "50,000 digits": "9" * 50_000,
    "65 bits": str(1 << 64),
    "-2^63 - 1": str(-(1 << 63) - 1),
    "1e999": "1e999",
    "-1e999": "-1e999",
    "1e-999": "1e-999",
    "huge exponent": "1e" + "9" * 5000,
    "long fraction": "0." + "1" * 100_000,
    "NaN": "NaN",
    "-Infinity": "-Infinity",
    "-0": "-0",
    "-0.0": "-0.0",
    "half a character": '"\\ud800"',
    "the other half": '"a\\udfffb"',
    "both halves": '"\\ud83d\\ude00"',
    "half a character in a key": '{"\\ud800": 1}',
    "twice the same key": '{"a": 1, "a": 2}',
    "many keys twice": "{" + ",".join(f'"{at % 5000}": 1' for at in range(10_000)) + "}",
    "quotes": '"' * 9999,
    "escapes": '\\"' * 9999,
    "open string": '"' + "\\\\" * 9999,
    "NUL": '"\\u0000"',
    "nothing": "",
    "null": "null",
}
CAN_BE_TAKEN = {"brackets in a string", "1e-999", "long fraction", "-0", "-0.0", "both halves", "NUL", "null"}


def tokens(text: str) -> list[int]:
    return list(VOCABULARY.encode(text))


def natural(text: str) -> tuple[Call, ...]:
    return NATURAL.parse(
        [VOCABULARY.id(CALL), *tokens(text), VOCABULARY.id(END_CALL), VOCABULARY.id(IM_END)], TOOLS
    )


def chat(name: Json, arguments: Json) -> tuple[Call, ...]:
    made: Json = [{"id": "1", "function": {"name": name, "arguments": arguments}}]
    calls, _ = _calls(_Answer(message={"tool_calls": made}), TOOLS)
    return tuple(calls)


def compact(text: str) -> tuple[Call, ...]:
    return COMPACT.parse([*tokens(text), VOCABULARY.id(END)], TOOLS)


def scalars(value: Json) -> Iterator[str | int | float | bool | None]:
    if isinstance(value, dict):
        yield from value
        for each in value.values():
            yield from scalars(each)
    elif isinstance(value, list):
        for each in value:
            yield from scalars(each)
    else:
        yield value


def assert_that_any_tool_can_take(calls: tuple[Call, ...]) -> None:
    assert calls
    for call in calls:
        for text in (call.tool, call.raw, call.problem or ""):
            text.encode()
        assert len(call.problem or "") < 300
        for value in scalars(dict(call.arguments)):
            if isinstance(value, str):
                value.encode()
            elif isinstance(value, int):
                assert -(1 << 63) <= value < 1 << 63
            elif value is not None:
                assert math.isfinite(value)
        json.dumps(dict(call.arguments), allow_nan=False).encode()  # as it goes to a tool server
        for tool in TOOLS:
            misfit(call.arguments, tool.parameters)


@pytest.mark.parametrize("name", HARD)
def test_json_that_no_tool_could_take_is_a_problem_of_the_call_in_every_way_of_calling(name: str) -> None:
    began = time.process_time()
    text = HARD[name]
    whole = f'{{"name": "take_object", "arguments": {{"x": {text}}}}}'
    found = [
        natural(whole),
        natural(text),
        chat("take_object", f'{{"x": {text}}}'),
        chat("take_object", text),
    ]
    for calls in found:
        assert_that_any_tool_can_take(calls)
    can_be_taken = name in CAN_BE_TAKEN
    assert [call.problem is None for call in (*found[0], *found[2])] == [can_be_taken] * 2
    assert all(call.problem for call in (*found[1], *found[3])), "no object, so no arguments"
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("tool", [tool.name for tool in TOOLS])
def test_a_word_that_no_tool_could_take_stays_text_in_the_compact_dialect(name: str, tool: str) -> None:
    assert_that_any_tool_can_take(compact(HARD[name]))
    assert_that_any_tool_can_take(compact(f"{tool} {HARD[name]} rest"))
    (call,) = compact(f"take_integer {HARD['400 digits']} rest")
    assert call.arguments["x"] == "9" * 400


PIECES = st.one_of(
    st.sampled_from(
        [
            *'[]{}",:\\',
            '"name"',
            '"arguments"',
            '"x"',
            "take_integer",
            " ",
            "1e",
            "-",
            "9" * 30,
            "NaN",
            "null",
            "\\ud800",
            "\\u00",
        ]
    ),
    st.text(max_size=6),
    st.integers().map(str),
    st.floats().map(repr),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    ).map(lambda value: json.dumps(value)),
)


@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_text_at_all_is_a_call_or_a_problem(text: str) -> None:
    for calls in (
        natural(text),
        natural(f'{{"name": "take_array", "arguments": {{"x": {text}}}}}'),
        compact(text),
        chat("x", text),
    ):
        assert_that_any_tool_can_take(calls)


@given(st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=60), st.integers(0, 3))
def test_any_tokens_at_all_are_calls_or_a_problem(ids: list[int], ends: int) -> None:
    specials = [VOCABULARY.id(each) for each in (CALL, END_CALL, THINK, END_THINK, IM_END, END)]
    mixed = [specials[token % len(specials)] if token % 5 == 0 else token for token in ids]
    for renderer, end in ((NATURAL, IM_END), (COMPACT, END)):
        said = [*mixed, *[VOCABULARY.id(end)] * bool(ends)]
        assert_that_any_tool_can_take(renderer.parse(said, TOOLS))
        assert len(renderer.channels(said)) == len(said)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(codec=None)),
        lambda each: st.lists(each) | st.dictionaries(st.text(), each),
    )
)
def test_an_endpoint_that_sends_an_object_for_a_text_is_read_alike(value: Json) -> None:
    assert_that_any_tool_can_take(chat("take_object", value))
    assert_that_any_tool_can_take(chat(value, {"x": value}))


def test_whatever_is_read_is_what_json_says() -> None:
    rng = random.Random(4)

    def value(depth: int) -> Json:
        if depth == 0 or rng.random() < 0.3:
            return rng.choice([None, True, -3, 1 << 62, 0.5, 1e300, "", "é😀", '"[{\\'])
        if rng.random() < 0.5:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        return {f"key {at}": value(depth - 1) for at in range(rng.randrange(4))}

    for _ in range(200):
        made = value(5)
        assert (
            policy_json.parse(json.dumps(made))
            == made
            == policy_json.parse(json.dumps(made, ensure_ascii=False, indent=1))
        )
    deepest = "[" * policy_json.MOST_DEEP + "]" * policy_json.MOST_DEEP
    policy_json.parse(deepest)
    with pytest.raises(ValueError, match="nested deeper"):
        policy_json.parse(f"[{deepest}]")
