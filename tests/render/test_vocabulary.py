"""The vocabulary's files are those of `transformers`, and it tokenises as that does."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.render.conftest import TEXTS
from transformers import AutoTokenizer

from agito.envs.shell import ShellEnvironment
from agito.errors import CorruptCheckpoint
from agito.render import Vocabulary, learn, renderer
from agito.render.vocabulary import SPECIALS
from agito.types import Budget, Call, Dialect, Event

TASK, _ = ShellEnvironment().task(split="train", index=0, seed=0)


def write(vocabulary: Vocabulary, into: Path, dialect: Dialect) -> None:
    for name, text in vocabulary.files(chat_template=renderer(dialect, vocabulary).chat_template).items():
        (into / name).write_text(text)


def sh(command: str) -> Call:
    return Call(tool="sh", arguments={"command": command})


@pytest.mark.parametrize("dialect", list(Dialect))
def test_transformers_makes_the_same_tokens_of_the_same_conversation(
    vocabulary: Vocabulary, tmp_path: Path, dialect: Dialect
) -> None:
    """The events have neither fault nor budget, which a chat message does not carry."""
    ours = renderer(dialect, vocabulary)
    write(vocabulary, tmp_path, dialect)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    actions = [ours.action([sh(command)], TASK.tools) for command in ("ls -p", "grep -rh kev *")]
    ids = array("i", ours.opening(TASK))
    for action, said in zip(actions, ("d/\n", "kev=mak\n"), strict=True):
        ids += action
        ids += ours.observation([Event(index=0, call=sh(""), text=said)])
    opening, closing = ours.text(ours.opening(TASK)), [ours.text(action[:-1]) for action in actions]
    messages = [{"role": "assistant", "content": closing[0]}, {"role": "tool", "content": "d/\n"}]
    messages += [{"role": "assistant", "content": closing[1]}, {"role": "tool", "content": "kev=mak\n"}]
    if dialect is Dialect.COMPACT:
        asked = [{"role": "user", "content": TASK.prompt[dialect]}]
    else:
        system = opening.split("<|im_start|>system\n")[1].split("<|im_end|>")[0]
        asked = [{"role": "system", "content": system}, {"role": "user", "content": TASK.prompt[dialect]}]
    found = theirs.apply_chat_template(
        [*asked, *messages], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert list(found) == list(ids)


@given(text=st.text(st.characters(exclude_categories=("Cs",)), max_size=60))
def test_any_text_comes_back_whole(vocabulary: Vocabulary, text: str) -> None:
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert not {vocabulary.id(special) for special in SPECIALS} & set(ids)
    assert len(vocabulary.pieces(ids)) == len(ids)


def test_a_word_is_the_same_token_wherever_it_stands(vocabulary: Vocabulary) -> None:
    (word,) = vocabulary.encode("kev")
    for text in ("find kev", "kev=mak", "s/^kev=.*/", "@kev", "old kev"):
        assert word in vocabulary.encode(text), text


def test_the_vocabulary_is_a_function_of_its_texts_and_no_larger_than_asked() -> None:
    first, second = learn(TEXTS, size=300), learn(TEXTS, size=300)
    assert first.files(chat_template="") == second.files(chat_template="")
    assert len(first) <= 300


def test_a_saved_vocabulary_is_read_back_as_it_was(vocabulary: Vocabulary, tmp_path: Path) -> None:
    write(vocabulary, tmp_path, Dialect.COMPACT)
    again = Vocabulary.read(tmp_path)
    assert again.files(chat_template="x") == vocabulary.files(chat_template="x")
    assert again.encode("find kev <|end|>") == vocabulary.encode("find kev <|end|>")


def test_a_damaged_or_foreign_tokenizer_is_a_corrupt_checkpoint(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    with pytest.raises(CorruptCheckpoint, match=r"tokenizer\.json"):
        Vocabulary.read(tmp_path)
    write(vocabulary, tmp_path, Dialect.COMPACT)
    path = tmp_path / "tokenizer.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(CorruptCheckpoint, match="cannot be read"):
        Vocabulary.read(tmp_path)
    path.write_text(whole.replace("<|task|>", "<|tusk|>"))
    with pytest.raises(CorruptCheckpoint, match=r"<\|task\|> is missing"):
        Vocabulary.read(tmp_path)


def test_what_is_left_of_the_budget_changes_the_tokens(vocabulary: Vocabulary) -> None:
    for dialect in Dialect:
        ours = renderer(dialect, vocabulary)
        seen = {
            bytes(
                ours.observation(
                    [Event(index=0, call=sh(""), text="x", left=Budget(turns=turns, calls=1, tokens=1))]
                )
            )
            for turns in (1, 2)
        }
        assert len(seen) == 2
