"""What a stream has said is never taken back: at any moment it is the beginning of the whole answer."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.render.test_chat import TEMPLATES, write

from agito.gateway import Ask
from agito.gateway.app import settled
from agito.render import read_chat
from agito.render.messages import Message, Speaker
from agito.render.tokenizer import ModelTokenizer
from agito.testing.fakes import TOOLS

CALL = '<tool_call>\n{"name": "open", "arguments": {"box": "1"}}\n</tool_call>'
ANSWERS = (
    f"Let me look. \n\n{CALL}",
    f"<think>\nwhich box?\n</think>\n\nThe first.\n{CALL}\n{CALL}",
    "<think>never closed",
    "a < b, and <tool is no tag; <tool_call> neither",
    "half a letter: é ü 漢",
    "\n  indented\n",
    f"{CALL} and then some text",
)


@pytest.mark.parametrize("said", ANSWERS)
@pytest.mark.parametrize("template", ["chatml", "qwen"])
def test_what_a_stream_has_shown_is_the_beginning_of_the_whole_answer(
    said: str, template: str, tmp_path: Path
) -> None:
    renderer = read_chat(write(tmp_path, "byte level", TEMPLATES[template]))
    ids = ModelTokenizer.read(tmp_path).encode(said)
    for tools in (TOOLS, ()):
        ask = Ask(model="", messages=(user("hi"),), tools=tools)
        whole = renderer.said(ids, tools)
        for stop in range(len(ids) + 1):
            shown = settled(renderer.said(ids[:stop], tools), ask, holds_back=False)
            assert whole.text.startswith(shown.text), (stop, shown.text)
            assert whole.thinking.startswith(shown.thinking), (stop, shown.thinking)


def user(text: str) -> Message:
    return Message(speaker=Speaker.USER, text=text)
