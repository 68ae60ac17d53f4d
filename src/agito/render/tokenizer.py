"""A pre-trained model's own tokenizer: its control tokens are made by its template alone, never by text from
the world.

Every added token that is not white space (`▁` is) counts as a control token, also where the tokenizer itself
does not call it special: Qwen's `<tool_call>` does not, and what a tool prints could then forge one.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer

from agito.errors import CorruptCheckpoint

_MARKS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))  # code points that no text may hold
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class _Control:
    id: int
    takes_space_before: bool
    takes_space_after: bool


class ModelTokenizer:
    """Text to ids and back, for a tokenizer.json."""

    def __init__(self, text: str) -> None:
        """Raises `ValueError` for a text that is no tokenizer."""
        data = cast("dict[str, Any]", json.loads(text))
        self._whole = _tokenizer(data)
        added = cast("list[dict[str, Any]]", data.get("added_tokens") or [])
        self._controls = {
            str(token["content"]): _Control(
                int(token["id"]), bool(token.get("lstrip")), bool(token.get("rstrip"))
            )
            for token in added
            if token.get("special") or str(token["content"]).replace("▁", "").strip()
        }
        self._control_ids = frozenset(control.id for control in self._controls.values())
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._literal = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._starts = {literal[:cut] for literal in self._controls for cut in range(1, len(literal))}
        self._stops = {literal[cut:] for literal in self._controls for cut in range(1, len(literal))}
        self._longest = max(map(len, self._controls), default=0)
        self._plain = _plain(data, [token for token in added if str(token["content"]) not in self._controls])
        self._pieces: dict[int, str] = {}

    def __len__(self) -> int:
        return self._whole.get_vocab_size(with_added_tokens=True)

    @property
    def largest_id(self) -> int:
        return max(self._whole.get_vocab(with_added_tokens=True).values(), default=-1)

    def control(self, literal: str) -> int | None:
        """The id of a control token, or None where there is none of that name."""
        found = self._controls.get(literal)
        return found.id if found else None

    def first_control(self, text: str) -> str | None:
        """The first control token that the text spells."""
        found = self._literal.search(text)
        return found[0] if found else None

    def guard(self, text: str, mark: str) -> str:
        """The text with marks inside everything that reads like a control token, and where it begins or ends
        with part of one; two behind a control token of a single letter.

        Whatever a template puts it into, it stays text. The mark itself is replaced.
        """
        text = text.replace(mark, _REPLACEMENT)
        apart = mark.join
        guarded = self._literal.sub(lambda found: apart(found[0]) + mark * 2 * (len(found[0]) == 1), text)
        lengths = range(1, min(self._longest, len(text) + 1))
        before = mark if any(text[:length] in self._stops for length in lengths) else ""
        after = mark if any(text[-length:] in self._starts for length in lengths) else ""
        return f"{before}{guarded}{after}"

    def encode(self, rendered: str, mark: str = "") -> array[int]:
        """Ids of what a template made of guarded texts; marks are taken out."""
        ids, at = array("i"), 0
        skips_space = False
        for found in self._literal.finditer(rendered):
            if mark and len(found[0]) == 1 and rendered.startswith(mark * 2, found.end()):
                continue
            control = self._controls[found[0]]
            text = rendered[at : found.start()]
            ids.extend(self._encode_between(text, mark, skips_space, control.takes_space_before))
            ids.append(control.id)
            at, skips_space = found.end(), control.takes_space_after
        ids.extend(self._encode_between(rendered[at:], mark, skips_space, False))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._whole.decode(list(ids), skip_special_tokens=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """One piece of text per token, for people; half characters show as the replacement character."""
        for token in ids:
            if token not in self._pieces:
                self._pieces[token] = self._whole.decode([token], skip_special_tokens=False)
        return [self._pieces[token] for token in ids]

    def _encode_between(self, text: str, mark: str, skips_before: bool, skips_after: bool) -> list[int]:
        text = text.lstrip() if skips_before else text
        text = text.rstrip() if skips_after else text
        text = text.replace(mark, "") if mark else text
        return self._encode_plain(text) if text else []

    def _encode_plain(self, text: str) -> list[int]:
        """A piece of the vocabulary that reads like a control token may still be found: then the text is cut
        inside each such piece. A letter that is one by itself is replaced.
        """
        ids, left = list[int](), [text]
        while left:
            text = left.pop()
            encoding = self._plain.encode(text, add_special_tokens=False)
            spans = [
                span
                for token, span in zip(encoding.ids, encoding.offsets, strict=True)
                if token in self._control_ids
            ]
            if not spans:
                ids.extend(encoding.ids)
            elif len(text) == 1:
                left += [_REPLACEMENT] * (text != _REPLACEMENT)
            else:
                cuts = sorted({min(max((start + stop) // 2, 1), len(text) - 1) for start, stop in spans})
                parts = [text[at:end] for at, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
                left += reversed(parts)
        return ids

    @classmethod
    def read(cls, directory: Path) -> ModelTokenizer:
        """Raises `CorruptCheckpoint`."""
        path = directory / "tokenizer.json"
        try:
            return cls(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise CorruptCheckpoint(f"{path}: cannot be read as a tokenizer ({error})") from error


def free_mark(texts: Iterable[str]) -> str:
    """A character that stands in none of the texts, if there is one that no text may hold."""
    used = {letter for text in texts for letter in text if letter in _MARKS}
    return next((mark for mark in _MARKS if mark not in used), _MARKS[0])


def _tokenizer(data: dict[str, Any]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _plain(data: dict[str, Any], kept: list[dict[str, Any]]) -> Tokenizer:
    """The same without control tokens. Only the first text of a conversation may be given a leading space."""
    changed = data | {
        "added_tokens": kept,
        "post_processor": None,
        "pre_tokenizer": _never_prepending(data.get("pre_tokenizer")),
    }
    tokenizer = _tokenizer(changed)
    # their ids count from those left out
    if any(tokenizer.token_to_id(str(token["content"])) != token["id"] for token in kept):
        tokenizer = _tokenizer(changed | {"added_tokens": []})
    return tokenizer


def _never_prepending(part: Any) -> Any:
    if isinstance(part, dict):
        found = {name: _never_prepending(value) for name, value in cast("dict[str, Any]", part).items()}
        return found | ({"prepend_scheme": "never"} if found.get("prepend_scheme") == "first" else {})
    if isinstance(part, list):
        return [_never_prepending(each) for each in cast("list[Any]", part)]
    return part
