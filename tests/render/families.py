"""Chat templates of many families, each with a small tokenizer that knows the control tokens which it writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

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
    """Pieces for `▁`, bytes for what has none, the controls among the pieces, and merges that lead to them.
    """
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
