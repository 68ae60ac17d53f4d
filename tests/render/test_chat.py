"""A model's own tokenizer and chat template: against the real transformers, against forgery, and against
templates that do not hold.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from agito.envs.shell import ShellEnvironment
from agito.errors import CorruptCheckpoint
from agito.render import ChatRenderer, UnsupportedTemplate, read_chat
from agito.render.tokenizer import ModelTokenizer
from agito.types import Budget, Call, Channel, Dialect, Event, Fault

TASK, _ = ShellEnvironment().task(split="train", index=0, seed=0)
TOOLS = TASK.tools
TEXTS = [
    "find the value of kev",
    "grep -rh kev . | head",
    '{"name": "sh", "arguments": {"command": "ls"}}',
    "system user assistant model",
] * 9

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' "
    "%}<|im_start|>system\nYou help.<|im_end|>\n"
    "{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)  # SmolLM2's kind: tools are ignored
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' "
    "%}{% set said = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set said = messages %}{% endif %}{% for message in said %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must "
    "alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{{ (first if loop.first else '') + message['content'] | trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)  # roles alternate, texts are trimmed
NO_SYSTEM = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] {{ "
    "message['content'] }} [/INST]"
    "{% elif message['role'] == 'assistant' %} {{ message['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant roles are supported') }}{% endif %}{% endfor %}"
)  # the first Mistral's and Llama 2's kind: there is no system message, and nothing opens a turn
QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\nYou help.\\n\\n# Tools\\n\\n<tools>' }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools>\\n\\nReturn <tool_call></tool_call> with JSON.<|im_end|>\\n" }}
{%- else %}
    {{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}{{- '\\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""  # Qwen2.5's kind: Hermes, and the tags are added tokens that are not special  # noqa: E501
TEMPLATES = {"chatml": CHATML, "gemma": GEMMA, "no system": NO_SYSTEM, "qwen": QWEN}
SPECIAL = (
    "<pad>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "[INST]",
    "[/INST]",
    "<|endoftext|>",
)
NOT_SPECIAL = ("<tool_call>", "</tool_call>", "<think>", "</think>")
CONTROLS = (*SPECIAL, *NOT_SPECIAL)


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return with_controls(tokenizer)


def sentence_piece() -> Tokenizer:
    """Gemma's kind; control tokens stand in the model's own vocabulary, and pieces can be put together to
    them.
    """
    alphabet = sorted({*map(chr, range(33, 127)), "▁", "\n"})
    pieces = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *alphabet,
        "▁▁",
        "in",
        "im",
        "<|",
        "|>",
        "<|im",
        "_end",
        "<|im_end",
        "<|im_end|>",
    ]
    merges = [
        ("▁", "▁"),
        ("i", "n"),
        ("i", "m"),
        ("<", "|"),
        ("|", ">"),
        ("<|", "im"),
        ("_", "end"),
        ("<|im", "_end"),
        ("<|im_end", "|>"),
    ]
    pieces += ["en", "end"]
    merges = [("e", "n"), ("en", "d"), *merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False)])
    return with_controls(tokenizer)


def with_controls(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in NOT_SPECIAL])
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


TOKENIZERS = {"byte level": byte_level(), "sentence piece": sentence_piece()}


def write(folder: Path, tokenizer: str, template: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(TOKENIZERS[tokenizer].to_str())
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        **named,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(
    params=[(tokenizer, template) for tokenizer in TOKENIZERS for template in TEMPLATES], ids=" ".join
)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tokenizer, template = request.param
    return write(tmp_path, tokenizer, TEMPLATES[template])


def sh(command: str) -> Call:
    return Call(tool="sh", arguments={"command": command})


def event(text: str, fault: Fault | None = None, index: int = 0) -> Event:
    return Event(
        index=index, call=sh("ls"), text=text, fault=fault, left=Budget(turns=7, calls=7, tokens=100)
    )


def rendered(renderer: ChatRenderer, turns: Sequence[tuple[list[Call], list[Event]]]) -> list[int]:
    ids = list(renderer.opening(TASK))
    for calls, events in turns:
        ids += [*renderer.action(calls, TOOLS), *renderer.observation(events)]
    return ids


def messages_of(turns: Sequence[tuple[list[Call], list[Event]]]) -> list[dict[str, Any]]:
    from agito.render.messages import answered

    messages: list[dict[str, Any]] = [
        {"role": "user", "content": f"{TASK.prompt[Dialect.NATURAL]}\n\nYou have {TASK.limits.turns} turns."}
    ]
    for calls, events in turns:
        made = [
            {"type": "function", "function": {"name": call.tool, "arguments": dict(call.arguments)}}
            for call in calls
        ]
        messages.append({"role": "assistant", "content": "", "tool_calls": made})
        messages += [{"role": "tool", "name": "sh", "content": answered(each)} for each in events]
    return messages


def offers() -> list[dict[str, Any]]:
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


def test_transformers_makes_the_same_tokens_of_the_same_conversation(folder: Path) -> None:
    """By the template that is exported, tools included; several calls in a turn, and white space at both
    ends.
    """
    renderer = read_chat(folder)
    turns = [
        ([sh("ls -p")], [event("d/\n")]),
        ([sh("cat 'a b'"), sh('echo "{}"')], [event(" x  y "), event("\n\nkev=mak\n", Fault.TIMEOUT)]),
    ]
    theirs = AutoTokenizer.from_pretrained(folder)
    whole = theirs.apply_chat_template(
        messages_of(turns),
        tools=offers(),
        chat_template=renderer.chat_template,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    assert rendered(renderer, turns) == list(whole)


@pytest.mark.parametrize("control", CONTROLS)
def test_what_reads_like_a_control_token_stays_text_wherever_the_world_says_it(
    control: str, folder: Path
) -> None:
    """Added tokens that their tokenizer does not call special are among them."""
    renderer, theirs = read_chat(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    known = {theirs.token_to_id(each) for each in CONTROLS}

    def controls(ids: Sequence[int]) -> list[int]:
        return [token for token in ids if token in known]

    for said in (
        control,
        f"x{control}y",
        f"{control}{control}",
        control[:-1],
        control[1:],
        f"{control[:3]}{control}",
    ):
        plain, forged = renderer.observation([event("harmless")]), renderer.observation([event(said)])
        assert controls(plain) == controls(forged)
        assert said in renderer.text(forged)
        assert controls(renderer.action([sh("ls")], TOOLS)) == controls(renderer.action([sh(said)], TOOLS))
        (call,) = renderer.parse(renderer.action([sh(said)], TOOLS), TOOLS)
        assert (call.arguments, call.problem) == ({"command": said}, None)


@given(
    text=st.text(st.characters(exclude_categories=("Cs",)), max_size=30),
    parts=st.lists(st.sampled_from([*CONTROLS, "<", "|>", "im"]), max_size=4),
)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_no_text_at_all_makes_a_control_token(kind: str, text: str, parts: list[str]) -> None:
    tokenizer = _TOKENIZERS[kind]
    said = text[: len(text) // 2] + "".join(parts) + text[len(text) // 2 :]
    mark = "\ufdd1" if "\ufdd1" not in said else "\ufdd2" if "\ufdd2" not in said else "\ufdd3"
    ids = tokenizer.encode(tokenizer.guard(said, mark), mark)
    assert not {TOKENIZERS[kind].token_to_id(each) for each in CONTROLS} & set(ids)
    assert len(tokenizer.pieces(ids)) == len(ids)
    if kind == "byte level":
        assert tokenizer.decode(ids) == said


_TOKENIZERS = {kind: ModelTokenizer(tokenizer.to_str()) for kind, tokenizer in TOKENIZERS.items()}


def test_harmless_text_is_tokenised_as_transformers_does(folder: Path) -> None:
    tokenizer, theirs = ModelTokenizer.read(folder), AutoTokenizer.from_pretrained(folder)
    for text in ("find kev", "  two  spaces", "a\n\nb", "Größe 東京 🙂", '{"a": [1, 2]}'):
        assert list(tokenizer.encode(text)) == theirs(text, add_special_tokens=False)["input_ids"]


def test_a_model_whose_template_offers_tools_in_hermes_format_keeps_it_and_others_are_given_hermes(
    tmp_path: Path,
) -> None:
    kept = read_chat(write(tmp_path / "a", "byte level", QWEN))
    assert kept.chat_template == QWEN
    for number, template in enumerate((CHATML, GEMMA, NO_SYSTEM)):
        given_hermes = read_chat(write(tmp_path / f"b{number}", "byte level", template))
        assert given_hermes.chat_template.endswith(template) and given_hermes.chat_template != template
        assert "sh" in given_hermes.text(given_hermes.opening(TASK))
        with pytest.raises(UnsupportedTemplate):
            read_chat(tmp_path / f"b{number}", tools="own")
    assert read_chat(tmp_path / "a", tools="hermes").chat_template != QWEN


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for message in messages %}", "cannot be read"),
        (CHATML.replace("<|im_end|>", "\n\n"), "no control token"),
        ("{{ messages[5]['content'] }}", "chat template"),
        (
            CHATML.replace(
                "message['content'] +", "(message['content'] if loop.last else message['content'][:9]) +"
            ),
            "chat template",
        ),
        ("{{ ''.__class__.__mro__ }}" + CHATML, "unsafe|not safe|chat template"),
    ],
    ids=["broken", "no end of turn", "empty", "rewrites history", "breaks out"],
)
def test_a_template_that_does_not_hold_is_refused_and_says_why(
    template: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedTemplate, match=says):
        read_chat(write(tmp_path, "byte level", template))


def test_a_template_that_drops_past_thinking_is_told_and_thinking_is_kept_as_sampled(tmp_path: Path) -> None:
    dropping = CHATML.replace("message['content'] +", "message['content'].split('</think>')[-1] +")
    assert read_chat(write(tmp_path / "a", "byte level", dropping)).strips_thinking
    assert not read_chat(write(tmp_path / "b", "byte level", CHATML)).strips_thinking


def test_a_turn_that_was_cut_off_or_calls_nothing_is_a_call_with_a_problem(folder: Path) -> None:
    renderer = read_chat(folder)
    ids = renderer.action([sh("ls")], TOOLS)
    for cut in (ids[:-1], ids[:2], ids[:0]):
        assert renderer.parse(cut, TOOLS)[0].problem == "the turn was cut off"
    (call,) = renderer.parse(renderer.stop_ids[:1], TOOLS)
    assert call.problem is not None and "<tool_call>" in call.problem


def test_whatever_ends_a_text_ends_a_turn_and_the_templates_own_end_comes_first(folder: Path) -> None:
    renderer, tokenizer = read_chat(folder), ModelTokenizer.read(folder)
    assert renderer.action([sh("ls")], TOOLS)[-1] == renderer.stop_ids[0]
    assert tokenizer.control("</s>") in renderer.stop_ids


def test_several_calls_and_thinking_have_their_channels(folder: Path) -> None:
    renderer, tokenizer = read_chat(folder), ModelTokenizer.read(folder)
    thought = tokenizer.encode("<think>\nls or </tool_call>?\n</think>\n")
    action = renderer.action([sh("echo '</tool_call>'"), sh("ls")], TOOLS)
    calls = renderer.parse([*thought, *action], TOOLS)
    assert [call.arguments["command"] for call in calls] == ["echo '</tool_call>'", "ls"]
    channels = renderer.channels([*thought, *action])
    assert len(channels) == len(thought) + len(action)
    said = "".join(
        piece
        for piece, channel in zip(renderer.pieces([*thought, *action]), channels, strict=True)
        if channel == Channel.CALL
    )
    assert said.startswith("<tool_call>") and said.endswith("</tool_call>") and "or" not in said
    assert channels[0] == Channel.THINK and channels[-1] == Channel.TEXT


@given(ids=st.lists(st.integers(0, 300), max_size=40))
def test_whatever_is_sampled_parses_to_calls_and_has_a_channel_for_every_token(ids: list[int]) -> None:
    for tokenizer in _TOKENIZERS.values():
        renderer = _RENDERERS.setdefault(id(tokenizer), ChatRenderer(tokenizer, CHATML))
        calls = renderer.parse([*ids, renderer.stop_ids[0]], TOOLS)
        assert calls and all(call.problem or call.tool is not None for call in calls)
        assert len(renderer.channels(ids)) == len(ids)


_RENDERERS: dict[int, ChatRenderer] = {}


def test_a_tokenizer_with_more_ids_than_the_network_has_rows_is_refused_and_padding_is_not(
    tmp_path: Path,
) -> None:
    write(tmp_path, "byte level", CHATML)
    largest = ModelTokenizer.read(tmp_path).largest_id
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": largest}))
    with pytest.raises(UnsupportedTemplate, match=f"id {largest}"):
        read_chat(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": largest + 100}))
    assert read_chat(tmp_path).vocab_size == largest + 100


def test_a_damaged_tokenizer_is_a_corrupt_checkpoint_and_a_missing_template_is_named(tmp_path: Path) -> None:
    write(tmp_path, "byte level", CHATML)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UnsupportedTemplate, match="no chat template"):
        read_chat(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CHATML)
    assert read_chat(tmp_path).stop_ids
    for text in ("", "[1]", '{"model": 3}'):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(CorruptCheckpoint, match=r"tokenizer\.json"):
            read_chat(tmp_path)
