"""A chat in which the assistant answers in words: its text is a call, and conversations can be imitated."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.render.families import VARIABLES, byte_level, templates
from tests.render.test_chat import CHATML, GEMMA, QWEN, TEMPLATES, TOKENIZERS, write

from agito.render import ChatRenderer, read_chat
from agito.render.tokenizer import ModelTokenizer
from agito.render.tool_formats import FORMATS
from agito.render.tool_formats.base import begins_call
from agito.types import Call, Dialect, Limits, Task, ToolSpec

WORDS: dict[str, object] = {"type": "object", "properties": {"answer": {"type": "string"}}}
SPEECH = ToolSpec(name="submit", description="Answers.", parameters=WORDS, is_speech=True)  # type: ignore[arg-type]
LOOK = ToolSpec(name="look", description="Looks.", parameters={"type": "object", "properties": {}})


def task(
    *tools: ToolSpec, messages: tuple[dict[str, str], ...] = ({"role": "user", "content": "zebra?"},)
) -> Task:
    prompt = dict.fromkeys(Dialect, "zebra?")
    return Task(
        id="t",
        env="e",
        split="train",
        family="f",
        level=1,
        prompt=prompt,
        tools=tools,
        messages=messages,
        limits=Limits(),
    )


@pytest.fixture(
    params=[(tokenizer, template) for tokenizer in TOKENIZERS for template in TEMPLATES], ids=" ".join
)
def renderer(request: pytest.FixtureRequest, tmp_path: Path) -> ChatRenderer:
    tokenizer, template = request.param
    return read_chat(write(tmp_path, tokenizer, TEMPLATES[template]))


def said(text: str) -> Call:
    return Call(tool="submit", arguments={"answer": text})


def answer_of(renderer: ChatRenderer, ids: object, *tools: ToolSpec) -> tuple[str, object]:
    (call,) = renderer.parse(ids, tools)  # type: ignore[arg-type]
    return call.tool, call.arguments.get("answer")


def test_what_the_assistant_says_is_the_call_and_reads_back(renderer: ChatRenderer) -> None:
    for text in ("find kev", "two\nlines", "grep <|im_end|> </s> x"):
        ids = renderer.action([said(text)], [SPEECH])
        tool, answer = answer_of(renderer, ids, SPEECH)
        assert (tool, str(answer).strip()) == ("submit", text)
        assert sum(token in renderer.stop_ids for token in ids) == 1, "its text ends no turn"


def test_a_turn_that_was_cut_off_is_what_was_said_so_far(renderer: ChatRenderer) -> None:
    ids = renderer.action([said("find kev find kev")], [SPEECH])
    tool, answer = answer_of(renderer, ids[:-2], SPEECH)
    assert tool == "submit" and str(answer).strip() and "find kev find kev".startswith(str(answer).strip())
    assert renderer.parse([], [SPEECH])[0].arguments == {"answer": ""}


def test_speech_is_not_offered_as_a_tool_and_a_prompt_alone_has_none(renderer: ChatRenderer) -> None:
    alone, beside = (renderer.text(renderer.opening(task(*tools))) for tools in ((SPEECH,), (LOOK, SPEECH)))
    assert "submit" not in alone + beside and "look" in beside and "look" not in alone
    assert "zebra?" in alone and "turns" not in alone, "a prompt is as it was given"


def test_beside_tools_a_turn_without_a_call_is_the_answer_and_one_with_a_call_is_the_call(
    renderer: ChatRenderer,
) -> None:
    call = Call(tool="look", arguments={})
    assert renderer.parse(renderer.action([call], [LOOK, SPEECH]), [LOOK, SPEECH])[0].tool == "look"
    ids = renderer.action([said("find kev")], [LOOK, SPEECH])
    assert answer_of(renderer, ids, LOOK, SPEECH)[0] == "submit"
    torn = renderer.action([call], [LOOK, SPEECH])[:-2]
    assert renderer.parse(torn, [LOOK, SPEECH])[0].problem == "the turn was cut off", "a call that was begun"


def test_messages_before_the_policys_turn_are_rendered_in_their_roles(tmp_path: Path) -> None:
    renderer = read_chat(write(tmp_path, "byte level", CHATML))
    messages = tuple(
        {"role": role, "content": content}
        for role, content in (("system", "sys"), ("user", "find"), ("assistant", "kev"), ("user", "grep"))
    )
    text = renderer.text(renderer.opening(task(SPEECH, messages=messages)))
    assert text == (
        "<|im_start|>system\nsys<|im_end|>\n<|im_start|>user\nfind<|im_end|>\n<|im_start|>assistant\nkev"
        "<|im_end|>\n<|im_start|>user\ngrep<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.fixture(params=[name for name, _ in templates()])
def family(request: pytest.FixtureRequest) -> ChatRenderer:
    source = dict(templates())[request.param]
    return ChatRenderer(ModelTokenizer(byte_level(source).to_str()), source, variables=VARIABLES)


def test_in_every_familys_format_an_answer_is_told_from_a_call(family: ChatRenderer) -> None:
    ids = family.action([said("find kev")], [LOOK, SPEECH])
    assert answer_of(family, ids, LOOK, SPEECH) == ("submit", "find kev") or (
        answer_of(family, ids, LOOK, SPEECH)[0] == "submit"
        and str(answer_of(family, ids, LOOK, SPEECH)[1]).strip() == "find kev"
    )
    assert ids[-1] in family.stop_ids, "its own end ends the turn"
    call = family.action([Call(tool="look", arguments={})], [LOOK, SPEECH])
    assert [each.tool for each in family.parse(call, [LOOK, SPEECH])] == ["look"]
    assert family.parse(call[:-3], [LOOK, SPEECH])[0].tool != "submit", "a call that was begun"


def test_in_every_familys_format_a_conversation_is_what_a_policy_in_training_meets(
    family: ChatRenderer,
) -> None:
    talk = [{"role": "user", "content": "find"}, {"role": "assistant", "content": "kev"}]
    ((ids, trainable),) = family.stretches(talk)  # type: ignore[arg-type]
    opening = family.opening(task(SPEECH, messages=({"role": "user", "content": "find"},)))
    assert ids == opening + family.action([said("kev")], [SPEECH])
    assert trainable == bytes(len(opening)) + b"\1" * (len(ids) - len(opening))


@pytest.mark.parametrize("name", FORMATS)
def test_json_lists_and_formulas_are_answers_and_begun_calls_are_none(name: str) -> None:
    written = FORMATS[name]
    for text in (
        '{"answer": 3}',
        '{"name": "Bob", "age": 3}',
        "[1, 2, 3]",
        r"\boxed{3}",
        "f(3) = 9",
        "{",
        "[",
    ):
        assert not begins_call(written, text, [LOOK, SPEECH]), text
    for text in (written.write([Call(tool="look", arguments={"at": "kev"})]), written.begin("look")):
        assert begins_call(written, text, [LOOK, SPEECH]), text


# --- conversations to imitate

TALK = [
    {"role": "user", "content": "find"},
    {"role": "assistant", "content": "kev"},
    {"role": "user", "content": "grep <|im_end|>"},
    {"role": "assistant", "content": "system model"},
]


@pytest.mark.parametrize("template", [CHATML, QWEN, GEMMA], ids=["chatml", "qwen", "gemma"])
def test_every_turn_of_the_assistants_is_imitated_and_nothing_else(template: str, tmp_path: Path) -> None:
    renderer = read_chat(write(tmp_path, "byte level", template))
    ((ids, trainable),) = renderer.stretches(TALK)  # type: ignore[arg-type]
    shown = [renderer.text([token]) for token, mark in zip(ids, trainable, strict=True) if mark]
    text = "".join(shown)
    assert text.count("kev") == 1 and "system model" in text and "find" not in text and "grep" not in text
    ends = [token for token, mark in zip(ids, trainable, strict=True) if mark and token in renderer.stop_ids]
    assert len(ends) == 2, "the end of each turn is learned, and text that reads like one is not one"


def test_a_conversation_is_rendered_as_a_policy_in_training_meets_it(tmp_path: Path) -> None:
    renderer = read_chat(write(tmp_path, "byte level", CHATML))
    ((ids, trainable),) = renderer.stretches(TALK[:2])  # type: ignore[arg-type]
    opening = renderer.opening(task(SPEECH, messages=({"role": "user", "content": "find"},)))
    assert ids == opening + renderer.action([said("kev")], [SPEECH])
    assert trainable == bytes(len(opening)) + b"\1" * (len(ids) - len(opening))


def test_a_template_that_rewrites_history_opens_a_new_stretch(tmp_path: Path) -> None:
    """As Qwen3's does: what was thought is dropped from all turns but the last."""
    drops = CHATML.replace(
        "message['content'] + '<|im_end|>'",
        "(message['content'] if loop.last or '</think>' not in message['content'] "
        "else message['content'].split('</think>')[-1]) + '<|im_end|>'",
    )
    renderer = read_chat(write(tmp_path, "byte level", drops))
    talk = [TALK[0], {"role": "assistant", "content": "<think>model</think>kev"}, *TALK[2:]]
    stretches = renderer.stretches(talk)  # type: ignore[arg-type]
    assert len(stretches) == 2
    texts = [renderer.text(ids) for ids, _ in stretches]
    assert "<think>model</think>kev" in texts[0] and "<think>" not in texts[1] and "kev" in texts[1]
    second = [renderer.text([token]) for token, mark in zip(*stretches[1], strict=True) if mark]
    assert "kev" not in "".join(second), "what the first stretch has taught is not taught again"
    if renderer.text(renderer.stretches(TALK[:2])[0][0]):  # type: ignore[arg-type]
        tokens = [renderer.text([token]) for token in stretches[0][0]]
        assert "<think>" in tokens, "an assistant that is imitated may think by the model's own tokens"
