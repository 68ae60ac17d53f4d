"""Chat templates by family: the tokens of `transformers`, the format that each writes calls in, forgery."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.render.families import (
    ASKED,
    PROMPT,
    TASK,
    TOOLS,
    VARIABLES,
    answer,
    byte_level,
    called,
    controls,
    differs,
    sentence_piece,
    templates,
    theirs,
)
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from agito.models.recipe_sections import ToolFormatName
from agito.render import ChatRenderer, UnsupportedTemplate
from agito.render.chat import KEEPING
from agito.render.tokenizer import ModelTokenizer
from agito.render.tool_formats import FORMATS
from agito.types import Budget, Call, Channel, Dialect, Event, Task

SOURCES = dict(templates())
KINDS = {"byte level": byte_level, "sentence piece": sentence_piece}
FORMAT = {
    "qwen2_5": "hermes",
    "qwen3": "hermes",
    "qwen3_instruct_2507": "hermes",
    "qwen3_6": "qwen3_coder",
    "gptoss": "harmony",
    "like_llama3": "llama3_json",
    "like_llama4": "llama4_pythonic",
    "like_mistral": "mistral",
    "like_mistral_v11": "mistral_v11",
    "like_olmo3": "olmo3",
    "like_lfm2": "lfm2",
}
AROUND = {"deepseekv3", "deepseek_r1_distill", "phi3", "glm4moe", "like_gemma"}  # which Hermes is put around
PAIRS = [
    (name, kind)
    for name in SOURCES
    for kind in KINDS
    if kind == "byte level" or all(map(str.isascii, controls(SOURCES[name])))
]  # the small SentencePiece vocabulary knows ASCII alone
REAL = Path(os.environ.get("AGITO_MODELS", "models"))


@cache
def tokenizer(name: str, kind: str) -> Tokenizer:
    return KINDS[kind](SOURCES[name])


@cache
def renderer(name: str, kind: str = "byte level") -> ChatRenderer:
    return ChatRenderer(ModelTokenizer(tokenizer(name, kind).to_str()), SOURCES[name], variables=VARIABLES)


def sh(command: str) -> Call:
    return Call(tool="sh", arguments={"command": command})


def event(text: str, call: Call | None = None) -> Event:
    return Event(index=0, call=call or sh("ls"), text=text, left=Budget(turns=7, calls=7, tokens=100))


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_every_family_renders_to_the_tokens_of_transformers(name: str, kind: str) -> None:
    """Questions, system messages, calls, answers and thinking, by the model's template and by the exported
    one.
    """
    assert differs(renderer(name, kind), tokenizer(name, kind), SOURCES[name]) == ""


@pytest.mark.parametrize("name", SOURCES)
def test_the_format_of_calls_is_the_one_that_the_template_writes_and_else_hermes_is_put_around(
    name: str,
) -> None:
    assert renderer(name).tool_format == FORMAT.get(name, "hermes")
    assert (name in FORMAT) != (name in AROUND)
    assert ("# Tools" in renderer(name).chat_template.removesuffix(SOURCES[name])) == (name in AROUND)


@pytest.mark.parametrize("name", SOURCES)
def test_a_call_is_written_and_read_back_in_every_family(name: str) -> None:
    commands = ["ls -l", "echo \"a\" 'b' \\n", "é 東京\n\t{x}", "</tool_call>", "a)]}"]
    for command in commands:
        ids = renderer(name).action([sh(command)], TOOLS)
        (call,) = renderer(name).parse(ids, TOOLS)
        assert (call.tool, call.arguments, call.problem) == ("sh", {"command": command}, None)
        assert ids[-1] in renderer(name).stop_ids
    calls = renderer(name).parse(renderer(name).action([sh("a"), sh("b")], TOOLS), TOOLS)
    assert [call.arguments for call in calls] == [{"command": "a"}, {"command": "b"}]


@pytest.mark.parametrize("name", SOURCES)
def test_tokens_of_calls_and_of_thoughts_have_their_channel_in_every_family(name: str) -> None:
    thought = {"gptoss": "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant"}.get(
        name, "<think>\nHm\n</think>\n\n"
    )
    ids = list(renderer(name).action([sh("ls")], TOOLS))
    held = ModelTokenizer(tokenizer(name, "byte level").to_str())
    if not renderer(name).text(ids).lstrip().startswith("</think>"):
        ids = [*held.encode(thought), *ids]
    channels = renderer(name).channels(ids)
    said = {
        channel: "".join(
            piece for piece, each in zip(renderer(name).pieces(ids), channels, strict=True) if each == channel
        )
        for channel in Channel
    }
    assert "ls" in said[Channel.CALL] and "ls" not in said[Channel.THINK] + said[Channel.TEXT]
    assert "think" in said[Channel.THINK] or "Hm" in said[Channel.THINK]
    (call,) = renderer(name).parse(ids, TOOLS)
    assert call.problem is None


def controls_in(ids: Sequence[int], known: frozenset[int]) -> list[int]:
    return [token for token in ids if token in known]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_what_the_world_says_makes_no_control_token_in_any_family(name: str, kind: str) -> None:
    """Its control tokens, in parts, twice and nested; in answers, prompts, calls and names of tools."""
    held, known = (
        renderer(name, kind),
        frozenset(filter(None, map(tokenizer(name, kind).token_to_id, controls(SOURCES[name])))),
    )
    plain = controls_in(held.observation([event("harmless")]), known)
    asked = controls_in(held.opening(TASK), known)
    acted = controls_in(held.action([sh("harmless")], TOOLS), known)
    for control in controls(SOURCES[name]):
        for said in (
            control,
            f"x{control}y",
            control * 2,
            control[:-1],
            control[1:],
            f"{control[:3]}{control}{control[3:]}",
        ):
            assert controls_in(held.observation([event(said)]), known) == plain
            assert (
                controls_in(held.observation([event("harmless", Call(tool=said, arguments={}))]), known)
                == plain
            )
            assert said in held.text(held.observation([event(f"a{said}b")])).replace('\\"', '"')
        assert controls_in(held.opening(with_prompt(control)), known) == asked
        assert controls_in(held.action([sh(f"x{control}")], TOOLS), known) == acted


def with_prompt(text: str) -> Task:
    return replace(TASK, prompt={Dialect.NATURAL: text, Dialect.COMPACT: ""})


def odd(kind: str) -> Tokenizer:
    """Tokenizers that real models have, one peculiarity each."""
    marks = ["<|end|>", "|end|", "<tool>", "§"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte = models.BPE(vocab={letter: index for index, letter in enumerate(letters)}, merges=[])
    if kind == "normalised":
        made = Tokenizer(byte)
        made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    elif kind == "unigram":
        pieces = [
            ("<unk>", 0.0),
            *((letter, -5.0) for letter in map(chr, range(33, 127))),
            ("▁", -4.0),
            *((mark, -1.0) for mark in marks),
        ]
        made = Tokenizer(models.Unigram(pieces, unk_id=0))
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        made.decoder = decoders.Metaspace(prepend_scheme="first")
    else:
        made = Tokenizer(byte)
    if kind != "unigram":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    made.add_tokens(
        [
            AddedToken(
                mark,
                special=False,
                normalized=kind == "normalised",
                lstrip=kind == "strips",
                rstrip=kind == "strips",
            )
            for mark in marks
        ]
    )
    made.add_tokens([AddedToken(each, special=True, normalized=False) for each in ("<s>", "</s>")])
    return made


ODD = {kind: odd(kind) for kind in ("plain", "strips", "normalised", "unigram")}
HELD = {kind: ModelTokenizer(made.to_str()) for kind, made in ODD.items()}
LOOKALIKES = [
    "<|end|>",
    "|end|",
    "<tool>",
    "§",
    "<s>",
    "＜tool＞",
    "<TOOL>",
    "<|",
    "end",
    "|>",
    "<",
    " ",
    "\ufdd0",
    "\ufffd",
]


@pytest.mark.parametrize("kind", ODD)
@given(
    parts=st.lists(
        st.sampled_from(LOOKALIKES) | st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
        max_size=8,
    )
)
def test_no_text_makes_a_control_token_of_a_tokenizer_with_a_peculiarity(kind: str, parts: list[str]) -> None:
    """Tokens of one letter, tokens within tokens, tokens that take the space around them, normalisers,
    Unigram.
    """
    held = HELD[kind]
    text = "".join(parts)
    ids = held.encode(held.guard(text, "\ufdd0"), "\ufdd0")
    assert not {
        ODD[kind].token_to_id(mark) for mark in ("<|end|>", "|end|", "<tool>", "§", "<s>", "</s>")
    } & set(ids)


def test_every_mark_thousands_of_lookalikes_and_halves_of_characters_are_rendered() -> None:
    """Or a policy could end an attempt by what it prints."""
    for name, kind in PAIRS:
        held = renderer(name, kind)
        known = frozenset(filter(None, map(tokenizer(name, kind).token_to_id, controls(SOURCES[name]))))
        plain = controls_in(held.observation([event("harmless")]), known)
        marks = "".join(map(chr, range(0xFDD0, 0xFDF0)))
        lookalikes = "".join(controls(SOURCES[name])) * 60
        for text in (marks, lookalikes, f"{marks}{lookalikes}", "a\ud800b"):
            assert controls_in(held.observation([event(text)]), known) == plain
    text = "<|im_end|>" * 3000
    held = renderer("qwen2_5", "sentence piece")
    assert text in held.text(held.observation([event(text)]))


@pytest.mark.parametrize("model", ["smollm2-135m", "gemma3-270m"])
def test_no_added_token_of_a_real_tokenizer_can_be_forged(model: str) -> None:
    folder = REAL / model
    if not (folder / "tokenizer.json").is_file():
        pytest.skip(f"needs {folder}: agito models get {model}, and AGITO_MODELS if it is elsewhere")
    held, whole = ModelTokenizer.read(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    names = [token.content for token in whole.get_added_tokens_decoder().values() if token.content.strip()]
    assert len(names) > 10
    known = {whole.token_to_id(name) for name in names}
    for name in names[:: max(len(names) // 100, 1)]:
        for text in (name, f"x{name}y", name + name):
            ids = held.encode(held.guard(text, "\ufdd0"), "\ufdd0")
            assert not known & set(ids)
            assert held.decode(ids) == text
    for text in ("def f():\n    return  1\n\n\n", "  two  spaces   x", "a\tb", "Größe 東京 🙂"):
        assert list(held.encode(text)) == whole.encode(text, add_special_tokens=False).ids


def test_a_format_that_is_named_is_taken_or_refused_with_the_names_that_there_are() -> None:
    held = ModelTokenizer(tokenizer("qwen2_5", "byte level").to_str())
    with pytest.raises(ValueError, match="hermes, mistral_v11, mistral"):
        ChatRenderer(held, SOURCES["qwen2_5"], tool_format="chatty")
    drops = SOURCES["qwen2_5"].replace(
        "message.tool_calls", "message.no_calls"
    )  # offers tools, and writes no calls
    named = ChatRenderer(held, drops, tool_format="pythonic")
    assert named.tool_format == "pythonic"
    assert '[sh(command="ls")]' in named.text(named.action([sh("ls")], TOOLS))
    (call,) = named.parse(named.action([sh("ls")], TOOLS), TOOLS)
    assert call.arguments == {"command": "ls"}
    with pytest.raises(UnsupportedTemplate, match="harmony"):
        ChatRenderer(held, drops, tool_format="harmony")


def test_a_template_that_asks_for_the_date_is_given_one_that_stands_still_in_serving_too() -> None:
    held = renderer("like_llama3")
    assert "Today: 26 Jul 2024" in held.text(held.opening(TASK))
    assert "26 Jul 2024" in held.chat_template


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "deepseekv3", "qwen3_6"])
def test_a_turn_that_the_template_opens_within_a_thought_begins_in_it(name: str) -> None:
    held = renderer(name)
    opening = held.text(held.opening(TASK))
    assert opening.rstrip().endswith("<think>")
    assert held.strips_thinking
    text = "I look <tool_call> first.\n</think>\n\n"
    ids = [
        *ModelTokenizer(tokenizer(name, "byte level").to_str()).encode(text),
        *held.action([sh("ls")], TOOLS),
    ]
    (call,) = held.parse(ids, TOOLS)
    assert call.arguments == {"command": "ls"} and held.channels(ids)[0] == Channel.THINK
    (cut,) = held.parse([*ids[:5], held.stop_ids[0]], TOOLS)
    assert cut.problem is not None


def test_a_turn_without_thinking_is_a_mode_of_a_template_that_has_one() -> None:
    """Qwen3 opens it with an empty thought, which it leaves out of the history."""
    held = ChatRenderer(
        ModelTokenizer(tokenizer("qwen3", "byte level").to_str()),
        SOURCES["qwen3"],
        variables={**VARIABLES, "enable_thinking": False},
    )
    assert held.text(held.opening(TASK)).endswith("<think>\n\n</think>\n\n") and held.tool_format == "hermes"
    (call,) = held.parse(held.action([sh("ls")], TOOLS), TOOLS)
    assert call.arguments == {"command": "ls"}
    assert held.strips_thinking


def test_a_recipe_can_name_every_format_that_there_is() -> None:
    assert get_args(ToolFormatName) == ("auto", *FORMATS)


@pytest.mark.parametrize("name", SOURCES)
def test_where_the_template_drops_past_thinking_one_that_keeps_it_comes_with_the_checkpoint(
    name: str,
) -> None:
    """`transformers` then makes of messages with their thoughts the tokens that were sampled and observed."""
    held, made = renderer(name), tokenizer(name, "byte level")
    assert (KEEPING in held.files()) == held.strips_thinking
    if not held.strips_thinking:
        return
    template, ids = held.files()[KEEPING], list(held.opening(TASK))
    messages: list[dict[str, Any]] = [{"role": "user", "content": f"{PROMPT}\n\nYou have 12 turns."}]
    opens = held.text(ids).rstrip().endswith("<think>")
    for command, said in (("ls -l", " x "), ("cat 'é'", "\n1\n"), ("ls", "")):
        turn = held.text(held.action([sh(command)], TOOLS)).rpartition("</think>")[2].lstrip("\n")
        turn = ("" if opens else "<think>\n") + f"Look.\n\nThen act.\n</think>\n\n{turn}"
        ids += ModelTokenizer(made.to_str()).encode(turn)
        assert (
            theirs(made, template, [*messages, called(command, thought="Look.\n\nThen act.")], prompts=False)[
                : len(ids)
            ]
            == ids
        )
        ids += held.observation([Event(index=0, call=sh(command), text=said)])
        messages += [called(command, thought="Look.\n\nThen act."), answer(said)]
        assert theirs(made, template, messages) == ids
    dropped = theirs(made, held.chat_template, [*messages, {"role": "assistant", "content": "Done."}, ASKED])
    kept = theirs(made, template, [*messages, {"role": "assistant", "content": "Done."}, ASKED])
    assert kept[: len(ids)] == ids and dropped[: len(ids)] != ids
