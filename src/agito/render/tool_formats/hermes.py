"""Hermes tool calls: JSON between `<tool_call>` and `</tool_call>`, written by a template and read from what
was sampled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from agito.render import policy_json
from agito.render.tool_formats.base import Found, named
from agito.types import Call, ToolSpec

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_MOST_ENDS = 16  # closing tags tried for one call; a policy may write any number of them

# Before a model's own template, where that says nothing of tools: they go into the system message, results
# into user messages.
_PRELUDE = """\
{%- set agito = namespace(out=[], system='', rest=messages) -%}
{%- if messages and messages[0]['role'] == 'system' -%}
{%- set agito.system = messages[0]['content'] -%}{%- set agito.rest = messages[1:] -%}
{%- endif -%}
{%- if tools -%}
{%- set agito.system -%}
{%- if agito.system -%}{{ agito.system }}{{ '\\n\\n' }}{%- endif -%}
{{ '# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\nYou are provided with function signatures within \
<tools></tools> XML tags:\\n<tools>' }}
{%- for tool in tools -%}{{ '\\n' }}{{ tool | tojson }}{%- endfor -%}
{{ '\\n</tools>\\n\\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML \
tags:\\n<tool_call>\\n{"name": <function-name>, "arguments": <args-json-object>}\\n</tool_call>' }}
{%- endset -%}
{%- endif -%}
{%- if agito.system and not IN_USER -%}{%- set agito.out = [{'role': 'system', 'content': agito.system}] -%}{%- endif -%}
{%- for message in agito.rest -%}
{%- if message['role'] == 'tool' -%}
{%- set said = '<tool_response>\\n' + message['content'] + '\\n</tool_response>' -%}
{%- if not loop.first and loop.previtem['role'] == 'tool' -%}
{%- set said = agito.out[-1]['content'] + '\\n' + said -%}{%- set agito.out = agito.out[:-1] -%}
{%- endif -%}
{%- set agito.out = agito.out + [{'role': 'user', 'content': said}] -%}
{%- elif message['role'] == 'assistant' and message['tool_calls'] -%}
{%- set made = namespace(text=message['content'] or '') -%}
{%- for call in message['tool_calls'] -%}
{%- set function = call['function'] or call -%}
{%- set arguments = function['arguments'] if function['arguments'] is string else function['arguments'] | tojson -%}
{%- set made.text = made.text + ('\\n' if made.text else '') + '<tool_call>\\n{"name": ' + function['name'] | tojson + ', "arguments": ' \
+ arguments + '}\\n</tool_call>' -%}
{%- endfor -%}
{%- set agito.out = agito.out + [{'role': 'assistant', 'content': made.text}] -%}
{%- elif loop.first and IN_USER and agito.system -%}
{%- set agito.out = agito.out + [{'role': message['role'], 'content': agito.system + '\\n\\n' + message['content']}] -%}
{%- else -%}
{%- set agito.out = agito.out + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = agito.out -%}{%- set tools = none -%}
"""  # noqa: E501


def with_tools(template: str, *, has_system: bool) -> str:
    """A model's own template for turns, and Hermes for tools. `has_system`: the template knows the role
    `system`.
    """
    return _PRELUDE.replace("IN_USER", "false" if has_system else "true") + template


class Hermes:
    """The same tags within a string of the JSON mean nothing; a call whose closing tag is missing is read if
    its JSON is whole.
    """

    name = "hermes"
    served_as = "hermes"
    ends: tuple[str, ...] = ()
    tags: tuple[str, ...] = (OPEN, CLOSE)
    wanted = f'{OPEN}{{"name": ..., "arguments": {{...}}}}{CLOSE}'

    def find(self, text: str, tools: Sequence[ToolSpec]) -> Iterator[Found]:
        at = 0
        while (start := text.find(OPEN, at)) >= 0:
            call, at = _call(text, start + len(OPEN))
            yield start, at, call

    def begin(self, tool: str) -> str:
        return f'{OPEN}\n{{"name": "' + (f'{tool}", "arguments": ' if tool else "")

    def write(self, calls: Sequence[Call]) -> str:
        said = (
            json.dumps({"name": call.tool, "arguments": dict(call.arguments)}, ensure_ascii=False)
            for call in calls
        )
        return "\n".join(f"{OPEN}\n{each}\n{CLOSE}" for each in said)


def _call(text: str, start: int) -> tuple[Call, int]:
    """The call whose JSON begins at `start`, and where to go on."""
    first: tuple[Call, int] | None = None
    stop = start - 1
    for _ in range(_MOST_ENDS):
        stop = text.find(CLOSE, stop + 1)
        if stop < 0:
            break
        found = read_call(text[start:stop])
        if found.problem is None:
            return found, stop + len(CLOSE)
        first = first or (found, stop + len(CLOSE))
    return first or (read_call(text[start:]), len(text))


def read_call(block: str) -> Call:
    """Whatever is wrong with it goes back to the policy as its problem."""
    raw = block.strip()
    try:
        return named(policy_json.parse(raw), raw, "arguments")
    except ValueError as error:
        return Call(tool="", arguments={}, raw=raw, problem=f"not JSON: {error}")
