"""Turns as policies write them, well-formed and broken, in every tool-call format; seeded."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from agito.render.tool_formats import FORMATS
from agito.types import Call, Json, ToolSpec

TOOLS = (
    ToolSpec(
        name="sh",
        description="Run a command.",
        parameters={
            "type": "object",
            "properties": {"command": {"type": "string"}, "timeout": {"type": "integer"}},
            "required": ["command"],
        },
    ),
    ToolSpec(
        name="write_file",
        description="Write a file.",
        parameters={
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "text": {"type": "string"},
                "mode": {"type": ["string", "null"]},
                "force": {"type": "boolean"},
                "share": {"type": "number"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "meta": {"type": "object"},
            },
        },
    ),
    ToolSpec(name="submit", description="End.", parameters={"type": "object", "properties": {}}),
)
TEXTS = (
    "ls -l",
    "echo \"hi\" | grep 'x'",
    "a\nb\n",
    "é 東京 🙂",
    "C:\\dir\\new",
    '{"a": [1, 2]}',
    "it's",
    "'''",
    '"""',
    "]",
    ")",
    "})",
    "<b>x</b>",
    "a, b=1",
    "  padded  ",
    "",
    "null",
    "12",
    "true",
    "$(cat <<EOF\n1\nEOF\n)",
    "\\n",
    "\\u00e9",
    "\t",
    "x" * 80,
    "<tool_call>",
    "</tool_call>",
    "</parameter>",
    "</function>",
    "[TOOL_CALLS]",
    "f(x=1)",
    "#",
    "%s {x}",
    "\\",
    "\\'",
    "<think>",
    "a=b",
)
PROSE = (
    "",
    "",
    "",
    "I look first.\n",
    "Let me see: ",
    "\n",
    "  ",
    "I use {braces} here.\n",
    "See [1].\n",
    "Done (really)!\n",
    "```json\n",
    "é 東京\n",
    "The call: sh(command='x').\n",
    '"quoted" ',
)


def _value(rng: random.Random, kind: Json) -> Json:
    kinds = kind if isinstance(kind, list) else [kind]
    match rng.choice(kinds):
        case "integer":
            return rng.choice([0, -3, 7, 30, 1 << 40])
        case "number":
            return rng.choice([0.5, -1.25, 3, 1e-9, 2.0])
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
        case "array":
            return [rng.choice(TEXTS) for _ in range(rng.randrange(3))]
        case "object":
            return {
                rng.choice(["k", "a b", "é"]): rng.choice([1, None, True, "x", [1, {"y": rng.choice(TEXTS)}]])
                for _ in range(rng.randrange(3))
            }
        case _:
            return rng.choice(TEXTS)


def _call(rng: random.Random) -> Call:
    tool = rng.choices(TOOLS, (5, 5, 1))[0]
    properties = tool.parameters["properties"]
    assert isinstance(properties, dict)
    chosen = {
        name: _value(rng, spec["type"])
        for name, spec in properties.items()
        if isinstance(spec, dict) and rng.random() < 0.7
    }
    return Call(
        tool=tool.name if rng.random() < 0.97 else rng.choice(["nope", "a.b", "x-y"]), arguments=chosen
    )


def _plain(calls: list[Call], rng: random.Random) -> list[Call]:
    """Most texts without what the format's own tags are made of."""
    texts = [text for text in TEXTS if "<" not in text and "[TOOL" not in text]

    def changed(value: Json) -> Json:
        return rng.choice(texts) if isinstance(value, str) and value not in texts else value

    return [
        Call(tool=call.tool, arguments={name: changed(value) for name, value in call.arguments.items()})
        for call in calls
    ]


def _broken(rng: random.Random, text: str) -> str:
    """The text with a fault that policies make."""
    if not text:
        return text
    at = rng.randrange(len(text))
    match rng.randrange(9):
        case 0 | 1 | 2:
            return text[:at]  # truncated
        case 3:
            return text[:at] + text[at + 1 :]
        case 4:
            return text[:at] + rng.choice("\"'{}[]()<>,:=\\\n ") + text[at:]
        case 5:
            return text.replace('"', "'")
        case 6:
            return text.replace("}", "}}", 1) if rng.random() < 0.5 else text.replace("}", "", 1)
        case 7:
            return text.replace(": ", ":", 1).replace(", ", ",")
        case _:
            other = rng.randrange(len(text))
            return text[: min(at, other)] + text[max(at, other) :]


def turns(name: str, number: int, seed: int) -> Iterator[str]:
    """Turns in the format of this name, thinking and end apart."""
    rng, tool_format = random.Random(f"{name} {seed}"), FORMATS[name]
    for _ in range(number):
        calls = [_call(rng) for _ in range(rng.choices((0, 1, 2, 3), (1, 12, 4, 2))[0])]
        if rng.random() < 0.8:
            calls = _plain(calls, rng)
        text = _said(name, calls, rng) if rng.random() < 0.5 else tool_format.write(calls) if calls else ""
        before, after = rng.choice(PROSE), rng.choice(PROSE)
        text = _around(name, before, text, after) if rng.random() < 0.4 else text
        yield _broken(rng, text) if rng.random() < 0.4 else text


def _around(name: str, before: str, text: str, after: str) -> str:
    if name == "harmony":
        thought = f"<|channel|>analysis<|message|>{before}<|end|><|start|>assistant" if before else ""
        said = f"<|end|><|start|>assistant<|channel|>final<|message|>{after}" if after and text else ""
        return thought + text + said
    return before + text + after


def _said(name: str, calls: list[Call], rng: random.Random) -> str:
    """The same calls in other words: spacing, key order, quotes, ASCII."""
    dumps = rng.choice(
        [
            lambda value: json.dumps(value),
            lambda value: json.dumps(value, indent=2, ensure_ascii=False),
            lambda value: json.dumps(value, separators=(",", ":")),
        ]
    )
    made = [(call.tool, dict(call.arguments)) for call in calls]
    if name == "hermes":
        gap = rng.choice(["", "\n", " "])
        return gap.join(
            f"<tool_call>{gap}{dumps({'name': tool, 'arguments': given})}{gap}</tool_call>"
            for tool, given in made
        )
    if name == "llama3_json":
        key = rng.choice(["parameters", "arguments"])
        tag = rng.choice(["", "", "<|python_tag|>"])
        return tag + rng.choice(["; ", "\n", ";", ""]).join(
            dumps({"name": tool, key: given}) for tool, given in made
        )
    if name == "mistral":
        return (
            "[TOOL_CALLS]"
            + rng.choice(["", " "])
            + dumps([{"arguments": given, "name": tool, "id": "abcdefghi"} for tool, given in made])
        )
    if name == "mistral_v11":
        sep = rng.choice(["", "[ARGS]", "[CALL_ID]abcdefghi[ARGS]"])
        return "".join(f"[TOOL_CALLS]{tool}{sep}{dumps(given)}" for tool, given in made)
    if name == "qwen3_coder":
        gap = rng.choice(["\n", "", "\n"])
        each = [
            f"<tool_call>{gap}<function={tool}>{gap}"
            + "".join(
                f"<parameter={key}>{gap}{_bare(value, dumps)}{gap}</parameter>{gap}"
                for key, value in given.items()
            )
            + f"</function>{gap}</tool_call>"
            for tool, given in made
        ]
        return rng.choice(["\n", ""]).join(each)
    if name == "harmony":
        forms = (
            " to=functions.{0}<|channel|>commentary json<|message|>{1}<|call|>",
            "<|channel|>commentary to=functions.{0} <|constrain|>json<|message|>{1}<|call|>",
            "<|channel|>commentary to={0}<|message|>{1}<|call|>",
            "<|channel|>analysis to=functions.{0} code<|message|>{1}<|call|>",
        )
        return "<|start|>assistant".join(rng.choice(forms).format(tool, dumps(given)) for tool, given in made)
    quoted = [
        f"{tool}({', '.join(f'{key}={value!r}' for key, value in given.items())})" for tool, given in made
    ]
    tags = {
        "llama4_pythonic": ("<|python_start|>[", "]<|python_end|>"),
        "olmo3": ("<function_calls>\n", "\n</function_calls>"),
        "lfm2": ("<|tool_call_start|>[", "]<|tool_call_end|>"),
    }.get(name, ("[", "]"))
    return tags[0] + ("\n" if name == "olmo3" else ", ").join(quoted) + tags[1]


def _bare(value: Json, dumps: Callable[[Json], str]) -> str:
    """As Qwen3-Coder's template writes it."""
    return value if isinstance(value, str) else str(value) if isinstance(value, bool) else dumps(value)
