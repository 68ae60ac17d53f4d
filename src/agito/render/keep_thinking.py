"""A chat template that keeps past thinking, made of one that drops it: for serving as training saw it.

Each turn is what the template writes for it alone, after one question; nothing that comes later changes it.
"""

from __future__ import annotations

import json

_HEAD = "{%- macro agito_whole(messages, tools, add_generation_prompt) -%}"
_TAIL = """\
{%- endmacro -%}
{%- set agito_tools = tools | default(none) -%}
{%- set agito_prompts = add_generation_prompt | default(false) -%}
{%- set agito_ask = [{'role': 'user', 'content': 'Go on.'}] -%}
{%- set agito = namespace(head=messages | length, out='', turn='', thought='', said='', plain=[], run=[]) -%}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' and loop.index0 < agito.head -%}
{%- set agito.head = loop.index0 -%}
{%- endif -%}
{%- endfor -%}
{%- set agito.out = agito_whole(
  messages[:agito.head], agito_tools, agito.head < (messages | length) or agito_prompts
) -%}
{%- for message in messages[agito.head:] -%}
{%- if message['role'] == 'assistant' -%}
{%- set agito.said = message['content'] or '' -%}
{%- set agito.thought = message['reasoning_content'] or message['reasoning'] or message['thinking'] or '' -%}
{%- if not agito.thought and '</think>' in agito.said -%}
{%- set agito.thought = agito.said.split('</think>')[0].split('<think>')[-1] -%}
{%- set agito.said = agito.said.split('</think>')[-1].lstrip('\\n') -%}
{%- endif -%}
{%- set agito.thought = agito.thought.strip('\\n') -%}
{%- set agito.plain = [{'role': 'assistant', 'content': agito.said}] -%}
{%- set agito.run = [] -%}
{%- if message['tool_calls'] -%}
{%- set agito.plain = [
  {'role': 'assistant', 'content': agito.said, 'tool_calls': message['tool_calls']}
] -%}
{%- for call in message['tool_calls'] -%}
{%- set agito.run = agito.run + [{
  'role': 'tool', 'content': '', 'tool_call_id': call['id'] or 'call00000',
  'name': (call['function'] or call)['name']
}] -%}
{%- endfor -%}
{%- endif -%}
{%- set agito.turn = agito_whole(agito_ask + agito.plain + agito.run, agito_tools, false) -%}
{%- set opened = agito_whole(agito_ask, agito_tools, true) -%}
{%- if not agito.turn.startswith(opened) -%}
{%- set opened = opened[:(opened | length) - SCAFFOLD] -%}
{%- endif -%}
{%- set agito.turn = agito.turn[(opened | length):].split(END)[0].split('</think>')[-1].lstrip('\\n') -%}
{%- if agito.thought -%}
{%- set agito.turn = OPENS ~ agito.thought ~ '\\n</think>\\n\\n' ~ agito.turn -%}
{%- elif not OPENS -%}
{%- set agito.turn = '\\n</think>\\n\\n' ~ agito.turn -%}
{%- endif -%}
{%- set agito.out = agito.out ~ agito.turn ~ END -%}
{%- set agito.run = [] -%}
{%- else -%}
{%- set agito.run = agito.run + [message] -%}
{%- endif -%}
{%- if loop.last or (loop.nextitem['role'] == 'assistant' and message['role'] != 'assistant') -%}
{%- set agito.turn = agito_whole(
  agito_ask + agito.plain + agito.run, none, agito_prompts if loop.last else true
) -%}
{%- set agito.out = agito.out ~ END.join(agito.turn.split(END)[SKIPPED:]) -%}
{%- endif -%}
{%- endfor -%}
{{- agito.out -}}
"""


def keeping(source: str, *, end: str, scaffold: str, opens_thinking: bool, num_before: int) -> str:
    """`end` ends a turn, and stands `num_before` times before a first one where no tools are offered;
    `scaffold` is what opens a turn and is left out of the history.
    """
    tail = _TAIL.replace("SCAFFOLD", str(len(scaffold))).replace("SKIPPED", str(num_before + 1))
    tail = tail.replace("OPENS", "''" if opens_thinking else "'<think>\\n'").replace(
        "END", json.dumps(end, ensure_ascii=False)
    )
    return f"{_HEAD}{source}{tail}"
