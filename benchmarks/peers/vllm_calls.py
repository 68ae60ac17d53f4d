"""vLLM's own tool parsers, run where vLLM is installed: JSON lines of {"format", "text"} in, a line of
[[name, arguments], ...] or null out.

gpt-oss' parser needs OpenAI's vocabulary; without it (TIKTOKEN_ENCODINGS_BASE) its lines are answered by
"unavailable".
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")
MARKS = (
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
)


def tokenizer(*more: str) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=letters, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in (*MARKS, *more)])
    return PreTrainedTokenizerFast(tokenizer_object=made)


def text_parser(name: str, request: Any, *more: str) -> Callable[[str], Any]:
    from vllm.tool_parsers import ToolParserManager  # type: ignore[import-not-found]

    kind, tokens = ToolParserManager.get_tool_parser(name), tokenizer(*more)

    def parse(text: str) -> Any:
        try:
            found = kind(tokens, tools=request.tools).extract_tool_calls(text, request)
        except Exception:  # whatever it raises, the server answers 500
            return "raised"
        return [[call.function.name, call.function.arguments] for call in found.tool_calls] or None

    return parse


def harmony_parser(request: Any) -> Callable[[str], Any]:
    from vllm.entrypoints.openai.parser.harmony_utils import get_encoding  # type: ignore[import-not-found]
    from vllm.parser.harmony import HarmonyParser  # type: ignore[import-not-found]
    from vllm.reasoning.gptoss_reasoning_parser import GptOssReasoningParser  # type: ignore[import-not-found]
    from vllm.tool_parsers.gptoss_tool_parser import GptOssToolParser  # type: ignore[import-not-found]

    encoding = get_encoding()

    class Parser(HarmonyParser):
        reasoning_parser_cls = GptOssReasoningParser
        tool_parser_cls = GptOssToolParser

    def parse(text: str) -> Any:
        ids = encoding.encode(text, allowed_special="all")
        try:
            _, _, calls = Parser(tokenizer(), tools=request.tools).parse(
                text, request, model_output_token_ids=ids
            )
        except Exception:
            return "raised"
        return [[call.name, call.arguments] for call in calls or ()] or None

    return parse


def main() -> None:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest  # type: ignore[import-not-found]

    tools = json.loads(sys.stdin.readline())
    request = ChatCompletionRequest(model="x", messages=[{"role": "user", "content": "q"}], tools=tools)
    parsers: dict[str, Callable[[str], Any]] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        name = asked["format"]
        if name not in parsers:
            try:
                if name == "harmony":
                    parsers[name] = harmony_parser(request)
                else:
                    served = name.removesuffix("_v11")
                    parsers[name] = text_parser(
                        served, request, *(["[ARGS]", "[CALL_ID]"] if name == "mistral_v11" else [])
                    )
            except Exception as error:
                print(f"{name}: {error}", file=sys.stderr)
                parsers[name] = lambda _: "unavailable"
        print("> " + json.dumps(parsers[name](asked["text"])), flush=True)


if __name__ == "__main__":
    main()
