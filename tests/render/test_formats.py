"""Tool-call formats: against vLLM's own parsers, back and forth, and on whatever a policy may write."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agito.render.tool_formats import FORMATS
from agito.types import Call, Json, ToolSpec

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parent / "vllm_calls.jsonl").read_text(encoding="utf-8").splitlines()
]
KINDS = {
    "path": "string",
    "timeout": "integer",
    "share": "number",
    "force": "boolean",
    "tags": "array",
    "meta": "object",
}
TOOLS = tuple(
    ToolSpec(
        name=name,
        description="",
        parameters={
            "type": "object",
            "properties": {
                **{key: {"type": kind} for key, kind in KINDS.items()},
                "command": {"type": "string"},
                "text": {"type": "string"},
                "mode": {"type": ["string", "null"]},
            },
        },
    )
    for name in ("sh", "write_file", "submit")
)
BROKEN = ("", None)


def read(name: str, text: str) -> list[tuple[str, Any]]:
    found = [call for _, _, call in FORMATS[name].find(text, TOOLS)]
    return [BROKEN if call.problem else (call.tool, dict(call.arguments)) for call in found]


def vllm(answer: Any) -> list[tuple[str, Any]]:
    """What a client can run of vLLM's answer."""
    found: list[tuple[str, Any]] = []
    for tool, said in answer if isinstance(answer, list) else []:
        try:
            arguments = json.loads(said)
        except ValueError:
            arguments = None
        found.append((tool, arguments) if isinstance(arguments, dict) else BROKEN)
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_a_turn_is_read_as_vllm_reads_it_or_differs_for_a_reason_that_is_recorded(name: str) -> None:
    rows = [row for row in RECORDED if row["format"] == name]
    assert len(rows) >= 100
    num_same = 0
    for row in rows:
        mine, other = read(name, row["text"]), vllm(row["vllm"])
        is_same = mine == other or all(call == BROKEN for call in (*mine, *other))
        assert is_same != ("reason" in row), row
        num_same += is_same
    assert num_same > 0.7 * len(rows)


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXTS, each, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "path": TEXTS,
        "command": TEXTS,
        "force": st.booleans(),
        "timeout": st.integers(-1000, 1000),
        "tags": st.lists(JSON, max_size=3),
        "meta": st.dictionaries(TEXTS, JSON, max_size=3),
    },
)


@pytest.mark.parametrize("name", FORMATS)
@given(given_arguments=st.lists(ARGUMENTS, min_size=1, max_size=3))
def test_what_is_written_reads_back(name: str, given_arguments: list[dict[str, Json]]) -> None:
    calls = [Call(tool="sh", arguments=each) for each in given_arguments]
    text = FORMATS[name].write(calls)
    found = list(FORMATS[name].find(text, TOOLS))
    if (
        any(tag in text for tag in ("<parameter=", "</parameter>\n\n"))
        and name == "qwen3_coder"
        and not found
    ):
        return  # bare text cannot hold its own tags
    assert [(call.tool, dict(call.arguments), call.problem) for _, _, call in found] == [
        (call.tool, dict(call.arguments), None) for call in calls
    ]
    assert [start for start, _, _ in found] == sorted(start for start, _, _ in found)
    assert all(0 <= start <= stop <= len(text) for start, stop, _ in found)


TAGS = (
    "<tool_call>",
    "</tool_call>",
    "<function=sh>",
    "</function>",
    "<parameter=path>",
    "</parameter>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|python_tag|>",
    "<|python_start|>",
    "<|python_end|>",
    "<function_calls>",
    "</function_calls>",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "<|channel|>",
    "commentary",
    " to=functions.sh",
    "<|message|>",
    "<|call|>",
    "<|end|>",
    "<|start|>assistant",
    "[sh(",
    "sh(",
    "path=",
    "'",
    '"',
    "'''",
    ")",
    "]",
    "[",
    "{",
    "}",
    ",",
    ":",
    '{"name": "sh", "arguments": {}}',
    "\\",
    "\n",
    " ",
    "-",
    "1e9",
    "0x",
    "9" * 30,
    "None",
    "true",
    "r'",
    "f'{",
    "\\x",
    "\\N{",
    "\ud800",
)


@pytest.mark.parametrize("name", FORMATS)
@given(pieces=st.lists(st.sampled_from(TAGS) | st.text(max_size=4), max_size=30))
def test_whatever_a_policy_writes_is_calls_that_any_tool_can_take_or_a_problem(
    name: str, pieces: list[str]
) -> None:
    text = "".join(pieces)
    at = 0
    for start, stop, call in FORMATS[name].find(text, TOOLS):
        assert at <= stop and 0 <= start <= stop <= len(text)
        at = start
        assert call.problem is None or not call.arguments
        json.dumps(dict(call.arguments), allow_nan=False, ensure_ascii=False).encode()
        assert all(-(1 << 63) <= each < 1 << 63 for each in numbers(dict(call.arguments)))


def numbers(value: Json) -> list[int]:
    if isinstance(value, dict):
        return [each for part in value.values() for each in numbers(part)]
    if isinstance(value, list):
        return [each for part in value for each in numbers(part)]
    return [value] if isinstance(value, int) else []


LONG = {
    "open tags": lambda write: "<tool_call>" * 9000,
    "closed tags": lambda write: "<tool_call></tool_call>" * 5000,
    "open calls": lambda write: '[TOOL_CALLS]sh[ARGS]{"a' * 5000,
    "open messages": lambda write: "<|channel|>commentary to=functions.sh<|message|>{" * 2500,
    "open braces": lambda write: "{" * 100_000,
    "open lists": lambda write: "[TOOL_CALLS]" + "[" * 100_000,
    "digits": lambda write: "[sh(a=" + "1" * 100_000 + "x)]",
    "signs": lambda write: "[sh(a=" + "-" * 100_000 + "1)]",
    "nested": lambda write: "[sh(a=" + "[" * 50_000 + "]" * 50_000 + ")]",
    "quotes": lambda write: "[sh(a='" + "\\" * 100_000 + ")]",
    "strings": lambda write: "[sh(a=" + "''" * 50_000 + ")]",
    "parameters": lambda write: "<function=sh>" + "<parameter=path>x</parameter>\n" * 5000,
    "spaces": lambda write: "<function=sh><parameter=path>x</parameter>" + " \n" * 50_000,
    "closing parameters": lambda write: "<function=sh><parameter=path>" + "</parameter> x" * 8000,
    "many calls": lambda write: write([Call(tool="sh", arguments={"command": "x"})] * 2000),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", LONG)
def test_a_long_turn_is_read_in_time_that_grows_with_its_length(name: str, kind: str) -> None:
    text = LONG[kind](FORMATS[name].write)
    began = time.process_time()
    found = list(FORMATS[name].find(text, TOOLS))
    assert time.process_time() - began < 2
    assert all(len(call.problem or "") < 300 for _, _, call in found)
    if kind == "many calls" and name != "harmony":
        assert len(found) == 2000 and not any(call.problem for _, _, call in found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[sh(1)]", "every argument has a name"),
        ("[sh(path='a', path='b')]", "more than once"),
        ("[sh(path=open('x'))]", "no value begins"),
        ("[sh(path='a' if x else 'b')]", "missing"),
        ("[sh(path=f'{x}')]", "no literal"),
        ("[sh(timeout=1e999)]", "no number"),
        ("[sh(timeout=99999999999999999999)]", "64 bits"),
        ("[sh(timeout=-09)]", "no number"),
        ("[sh(path='\\ud800')]", "half a character"),
        ("[sh()] and more", "nothing may follow"),
        ("[sh(", "every argument has a name"),
    ],
)
def test_a_literal_that_no_json_could_say_is_a_problem_that_names_it(text: str, says: str) -> None:
    ((_, _, call),) = FORMATS["pythonic"].find(text, TOOLS)
    assert call.problem is not None and says in call.problem


def test_a_value_of_bare_text_becomes_what_the_schema_asks_for_and_else_stays_text() -> None:
    given_texts = {
        "timeout": "7",
        "share": "2.50",
        "force": "True",
        "tags": '["a"]',
        "meta": "{}",
        "mode": "null",
        "command": "7",
    }
    body = "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in given_texts.items())
    text = f"<tool_call>\n<function=sh>\n{body}</function>\n</tool_call>"
    assert read("qwen3_coder", text) == [
        (
            "sh",
            {
                "timeout": 7,
                "share": 2.5,
                "force": True,
                "tags": ["a"],
                "meta": {},
                "mode": None,
                "command": "7",
            },
        )
    ]
    for key, wrong in {
        "timeout": "many",
        "force": "maybe",
        "tags": "a, b",
        "share": "NaN",
        "meta": "[1]",
    }.items():
        text = f"<tool_call><function=sh><parameter={key}>{wrong}</parameter></function></tool_call>"
        assert read("qwen3_coder", text) == [("sh", {key: wrong})]


def test_a_message_to_another_tool_and_an_answer_are_no_calls_in_channels() -> None:
    text = (
        "<|channel|>analysis<|message|>to=functions.sh?<|end|><|start|>assistant<|channel|>commentary"
        " to=python code<|message|>print()<|end|><|start|>assistant<|channel|>final<|message|>{}"
    )
    assert read("harmony", text) == []


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_call_begins_with_is_what_is_written_up_to_its_arguments(name: str) -> None:
    written = FORMATS[name].write([Call(tool="sh", arguments={"command": "ls"})])
    begun, named = FORMATS[name].begin("sh"), FORMATS[name].begin("")
    assert written.startswith(begun) and begun.startswith(named)
    assert begun != named and "sh" not in named and "ls" in written[len(begun) :]


def test_a_call_whose_end_is_broken_takes_nothing_from_the_next() -> None:
    parameter = "<parameter=command>ls</parameter>"
    whole = f"<tool_call><function=write_file>{parameter}</function></tool_call>"
    assert (
        read("qwen3_coder", f"<tool_call><function=sh>{parameter}</funtion></tool_call>{whole}")[0] == BROKEN
    )
    assert read("qwen3_coder", f"<tool_call><function=sh>{parameter}{parameter}</function></tool_call>") == [
        BROKEN
    ]
    assert read("qwen3_coder", whole + whole) == [("write_file", {"command": "ls"})] * 2
