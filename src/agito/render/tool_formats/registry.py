"""Tool-call formats by the name of their family: one file each, one line here."""

from __future__ import annotations

from agito.render.tool_formats.base import ToolFormat
from agito.render.tool_formats.harmony import Harmony
from agito.render.tool_formats.hermes import Hermes
from agito.render.tool_formats.llama import Llama
from agito.render.tool_formats.mistral import Mistral
from agito.render.tool_formats.pythonic import Pythonic
from agito.render.tool_formats.qwen_coder import QwenCoder

# In this order a chat template is asked for its own: what has tags stands before what has none.
FORMATS: dict[str, ToolFormat] = {
    each.name: each
    for each in (
        Harmony(), QwenCoder(), Hermes(), Mistral(has_names=True), Mistral(has_names=False),
        Pythonic("llama4_pythonic", opens="<|python_start|>", closes="<|python_end|>"),
        Pythonic(
            "olmo3", opens="<function_calls>", closes="</function_calls>", has_brackets=False, anywhere=True
        ),
        Pythonic(
            "lfm2", opens="<|tool_call_start|>", closes="<|tool_call_end|>", anywhere=True, has_breaks=True
        ),
        Pythonic("pythonic"), Llama(),
    )
}  # fmt: skip
