"""A byte-level BPE vocabulary with special tokens, kept in the files that `transformers` reads."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from agito.errors import CorruptCheckpoint
from agito.protocols import Renderer
from agito.render.effort import TokenBlocks
from agito.types import Effort

PAD, END, TASK, ACT, OBS, LEFT, FAULT = (
    "<|pad|>",
    "<|end|>",
    "<|task|>",
    "<|act|>",
    "<|obs|>",
    "<|left|>",
    "<|fault|>",
)
THINK, END_THINK, CALL, END_CALL = "<think>", "</think>", "<tool_call>", "</tool_call>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
EFFORTS = {effort: f"<|{effort}|>" for effort in Effort}  # only where a recipe asks for effort
SPECIALS = (PAD, END, TASK, ACT, OBS, LEFT, FAULT, THINK, END_THINK, CALL, END_CALL, IM_START, IM_END)

# Words, numbers and everything between them are never merged into one another: a word is the same token
# wherever it stands.
_PIECES = r"[A-Za-z]+|[0-9]+|[^A-Za-z0-9]+"


class Vocabulary:
    """Text to ids and back. Special tokens are never produced from text: what an environment prints stays
    text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, array[int]] = {}
        # "<|end|>" in a tool's output is nine characters, not the end of a turn
        tokenizer.encode_special_tokens = True
        for special in SPECIALS:
            if tokenizer.token_to_id(special) is None:
                raise CorruptCheckpoint(
                    f"tokenizer: {special} is missing; use the tokenizer.json that was saved with the "
                    "checkpoint"
                )

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def id(self, special: str) -> int:
        found = self._tokenizer.token_to_id(special)
        assert found is not None, special
        return found

    @property
    def asks_effort(self) -> bool:
        """Whether it has tokens that ask for effort."""
        return all(self._tokenizer.token_to_id(token) is not None for token in EFFORTS.values())

    def encode(self, text: str) -> array[int]:
        """Ids of plain text; remembered for short texts, which repeat."""
        known = self._cache.get(text)
        if known is None:
            known = array("i", self._tokenizer.encode(text, add_special_tokens=False).ids)
            if len(text) < 64 and len(self._cache) < 20_000:
                self._cache[text] = known
        return known

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """One piece of text per token, for people; half characters show as the replacement character."""
        return [self._tokenizer.decode([token], skip_special_tokens=False) for token in ids]

    def files(self, *, chat_template: str, stop_ids: Sequence[int] = ()) -> dict[str, str]:
        """tokenizer.json and tokenizer_config.json by name, as `transformers` reads them. The first of
        `stop_ids` ends a turn.
        """
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "pad_token": PAD,
            "eos_token": self._tokenizer.id_to_token(stop_ids[0]) if stop_ids else END,
            "clean_up_tokenization_spaces": False,
            "chat_template": chat_template,
        }
        return {
            "tokenizer.json": self._tokenizer.to_str(),
            "tokenizer_config.json": json.dumps(config, indent=2, ensure_ascii=False) + "\n",
        }

    @classmethod
    def read(cls, directory: Path) -> Vocabulary:
        """Raises `CorruptCheckpoint` when the directory has no readable tokenizer.json."""
        path = directory / "tokenizer.json"
        try:
            return cls(Tokenizer.from_file(str(path)))
        except CorruptCheckpoint:
            raise
        except Exception as error:  # the library raises bare Exception
            raise CorruptCheckpoint(f"{path}: cannot be read as a tokenizer ({error})") from error


def is_own(directory: Path) -> bool:
    """Whether the tokenizer of a folder is a `Vocabulary`, or is damaged beyond telling."""
    try:
        data = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
        known = {token["content"] for token in data["added_tokens"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return True
    return known.issuperset((TASK, ACT, OBS, LEFT, FAULT))


class OwnRenderer:
    """What both of our own dialects have of the vocabulary that they write in."""

    vocabulary: Vocabulary
    chat_template: str
    _end: int  # the token that ends a turn

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return (self._end,)

    def files(self) -> Mapping[str, str]:
        return self.vocabulary.files(chat_template=self.chat_template, stop_ids=self.stop_ids)

    def asking(self, effort: Effort) -> TokenBlocks:
        """The renderer for this effort. Raises `ValueError` for a vocabulary without the tokens for it."""
        if not self.vocabulary.asks_effort:
            raise ValueError(
                f"effort={effort}: this vocabulary has no token for it; train with effort.settings"
            )
        return OwnBlocks(cast("Renderer", self), self.vocabulary, effort)


class OwnBlocks(TokenBlocks):
    """In an own vocabulary: the token of the effort, then the block."""

    def __init__(self, inner: Renderer, vocabulary: Vocabulary, effort: Effort) -> None:
        super().__init__(
            inner,
            effort,
            asked=[vocabulary.id(EFFORTS[effort])],
            think=vocabulary.id(THINK),
            end_think=vocabulary.id(END_THINK),
        )
        self._vocabulary = vocabulary

    def _encode(self, text: str) -> array[int]:
        return array("i", self._vocabulary.encode(text))


def learn(texts: Iterable[str], *, size: int, asks_effort: bool = False) -> Vocabulary:
    """A vocabulary of at most `size` entries, the 256 bytes and the special tokens included. Deterministic
    given `texts`. `asks_effort`: with tokens that ask for effort, behind all others.
    """
    efforts = [_special(token) for token in EFFORTS.values()] if asks_effort else []
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(efforts),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        special_tokens=[_special(token) for token in SPECIALS],
    )
    tokenizer.train_from_iterator(texts, trainer)
    if efforts:
        tokenizer.add_special_tokens(efforts)  # pyright: ignore[reportUnknownMemberType]: the library's
    return Vocabulary(tokenizer)


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)
