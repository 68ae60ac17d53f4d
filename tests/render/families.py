"""Chat templates of many families, and small tokenizers with the control tokens that each writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from agito.render import ChatRenderer, UnsupportedTemplate
from agito.render.template import ChatTemplate, dated
from agito.render.tokenizer import ModelTokenizer
from agito.types import Call, Dialect, Event, Task, ToolSpec

TEMPLATES = Path(__file__).parent / "templates"
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}
_CONTROL = re.compile(
    r"<\|[^|>{}\s]{1,40}\|>|<｜[^｜>]{1,40}｜>|\[/?[A-Z_]{3,20}\]|<(?:start|end)_of_\w+>|</?s>|</?(?:tool_call|think|tool_response)>|<sop>|\[gMASK\]"
    r"|<turn\|>|<\|turn>|<\|tool_call>|<tool_call\|>|<\|channel>|<channel\|>|<bos>|<eos>"
)
_ORDINARY = re.compile(
    r"</?(?:tool|think|function)|\[/?(?:TOOL|THINK|ARGS)|<\|tool"
)  # added, but not called special


def controls(template: str) -> list[str]:
    return [*dict.fromkeys(["<s>", "</s>", *_CONTROL.findall(template)])]


def byte_level(template: str) -> Tokenizer:
    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=letters, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return _with(made, template)


def sentence_piece(template: str) -> Tokenizer:
    """`▁` for a space, bytes for what has no piece, controls among the pieces, and merges towards them."""
    alphabet = sorted({*map(chr, range(33, 127)), "▁", "\n"})
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet, "▁▁"]
    merges: list[tuple[str, str]] = [("▁", "▁")]
    for control in controls(template):
        if control.isascii():
            for end in range(2, len(control) + 1):
                merges.append((control[: end - 1], control[end - 1]))
                pieces.append(control[:end])
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    made = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=list(dict.fromkeys(merges)),
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_tokens([AddedToken("▁▁", normalized=False), AddedToken("\n\n", normalized=False)])
    return _with(made, template)


def _with(made: Tokenizer, template: str) -> Tokenizer:
    made.add_tokens(
        [AddedToken(each, special=not _ORDINARY.match(each), normalized=False) for each in controls(template)]
    )
    return made


def templates(folder: Path = TEMPLATES) -> Iterator[tuple[str, str]]:
    """Name and source."""
    for path in sorted(folder.glob("*.jinja")):
        yield path.stem, path.read_text(encoding="utf-8")


PROMPT = "Find the value of kev."
TOOLS = (
    ToolSpec(
        name="sh",
        description="Run a command.",
        parameters={"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    ),
    ToolSpec(
        name="submit",
        description="End.",
        parameters={"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]},
    ),
)
TASK = Task(
    id="t",
    env="e",
    family="f",
    level=1,
    split="train",
    prompt={Dialect.NATURAL: PROMPT, Dialect.COMPACT: ""},
    tools=TOOLS,
)


def offered() -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": dict(tool.parameters),
            },
        }
        for tool in TOOLS
    ]


def theirs(
    tokenizer: Tokenizer, template: str, messages: list[dict[str, Any]], prompts: bool = True
) -> list[int]:
    """What `transformers` makes of it."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **VARIABLES)
    options: dict[str, Any] = {
        "tools": offered(),
        "chat_template": template,
        "add_generation_prompt": prompts,
    }
    ids: Any = fast.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
    return list(ids)


def called(*commands: str, thought: str = "", content: str = "") -> dict[str, Any]:
    made = [
        {
            "id": f"call{at:05d}",
            "type": "function",
            "function": {"name": "sh", "arguments": {"command": each}},
        }
        for at, each in enumerate(commands)
    ]
    message: dict[str, Any] = {"role": "assistant", "content": content, "tool_calls": made}
    return message | ({"reasoning_content": thought, "thinking": thought} if thought else {})


def answer(text: str, at: int = 0) -> dict[str, Any]:
    return {"role": "tool", "name": "sh", "tool_call_id": f"call{at:05d}", "content": text}


ASKED: dict[str, Any] = {"role": "user", "content": PROMPT}
HISTORIES: dict[str, list[dict[str, Any]]] = {
    "a question": [ASKED],
    "a system message": [{"role": "system", "content": "Be brief."}, ASKED],
    "a call and its answer": [ASKED, called("ls -l"), answer("d/\n")],
    "several calls": [
        ASKED,
        called("ls", 'echo "{}" é'),
        answer(" x  y "),
        answer("\n\n東京\n", 1),
        called("cat d/x"),
        answer("1"),
    ],
    "thinking": [
        ASKED,
        called("ls", thought="Where is it?"),
        answer("d"),
        {"role": "assistant", "content": "Done."},
        ASKED,
    ],
    "thinking in the text": [
        ASKED,
        {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nIt is 3."},
        ASKED,
    ],
}


def differs(renderer: ChatRenderer, tokenizer: Tokenizer, source: str) -> str:
    """Where our rendering and that of `transformers` are not the same tokens; nothing where they are."""
    ours = ModelTokenizer(tokenizer.to_str())
    for template in (dated(source), renderer.chat_template):
        held = ChatTemplate(template, ours, VARIABLES)
        for name, messages in HISTORIES.items():
            for prompts in (True, False):
                mine = _tried(lambda *args: list(ours.encode(*_rendered(*args))), held, messages, prompts)
                other = _tried(theirs, tokenizer, template, messages, prompts)
                if mine != other:
                    return f"{name}: {ours.decode(mine or [])!r} is not {ours.decode(other or [])!r}"
    return _grown(renderer, tokenizer) if not renderer.strips_thinking else ""


def _grown(renderer: ChatRenderer, tokenizer: Tokenizer) -> str:
    """A conversation turn by turn, and whole."""
    turns = [
        (Call(tool="sh", arguments={"command": 'ls "a b"'}), " x  y "),
        (Call(tool="sh", arguments={"command": "é"}), "\n\n1\n"),
    ]
    ids, messages = (
        list(renderer.opening(TASK)),
        [{"role": "user", "content": f"{PROMPT}\n\nYou have 12 turns."}],
    )
    for call, said in turns:
        ids += [
            *renderer.action([call], TOOLS),
            *renderer.observation([Event(index=0, call=call, text=said)]),
        ]
        messages += [called(str(call.arguments["command"])), answer(said)]
    whole = theirs(tokenizer, renderer.chat_template, messages)
    return "" if ids == whole else f"in increments {renderer.text(ids)!r}, whole {renderer.text(whole)!r}"


def _rendered(held: ChatTemplate, messages: list[dict[str, Any]], prompts: bool) -> tuple[str, str]:
    return held.render(messages, offered(), prompts=prompts, is_trusted=True)


def _tried(render: Callable[..., list[int]], *given: Any) -> list[int] | None:
    """Nothing where the template does not take it."""
    try:
        return render(*given)
    except (UnsupportedTemplate, TemplateError, ValueError, TypeError):
        return None
