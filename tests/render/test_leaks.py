"""Thinking outside its block is counted wherever it stands, and what a call needs is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.render.test_effort import chat, own
from tests.render.test_families import SOURCES, TOOLS

from agito.protocols import ThinkingRenderer, ThoughtfulCall
from agito.render.commentary import commentary
from agito.types import Call, Dialect, Effort, Json, ToolSpec

THOUGHT = "kev goes to mak and mak goes to let so after both of them it must be in let again and so on"
SPEECH = 16  # tokens that are free in the natural dialect


def command(text: str) -> Call:
    return ThoughtfulCall(tool="sh", arguments={"command": text}, thinking="kev")


def turn(asked: ThinkingRenderer, text: str, *, before: str = "", after: str = "") -> list[int]:
    """A turn that calls `sh`, with text before and behind the call."""
    ids = asked.action([command(text)], TOOLS)
    where = asked.channels(ids)
    at = max(number for number, channel in enumerate(where) if channel == 1) + 1
    end = len(ids) - 1
    encode = asked._encode  # type: ignore[attr-defined]
    return [*ids[:at], *encode(before), *ids[at:end], *encode(after), *ids[end:]]


def leaked(asked: ThinkingRenderer, ids: Sequence[int], tools: Sequence[ToolSpec] = TOOLS) -> int:
    return asked.thought(ids, tools).num_leaked


def size(asked: ThinkingRenderer, text: str) -> int:
    return len(asked._encode(text))  # type: ignore[attr-defined]


EVERY = [own(Dialect.NATURAL, Effort.HIGH), chat("qwen3").asking(Effort.HIGH)]


@pytest.mark.parametrize("asked", EVERY, ids=["own", "qwen3"])
def test_text_beside_a_call_is_counted_before_it_and_behind_it(asked: ThinkingRenderer) -> None:
    assert leaked(asked, turn(asked, "ls")) == 0
    for where in ("before", "after"):
        found = leaked(asked, turn(asked, "ls", **{where: THOUGHT}))
        assert found >= size(asked, THOUGHT.replace(" ", "")) // 2 and found > SPEECH


@pytest.mark.parametrize("asked", EVERY, ids=["own", "qwen3"])
def test_what_none_keeps_out_of_the_block_is_counted_all_the_same(asked: ThinkingRenderer) -> None:
    none = asked._inner.asking(Effort.NONE)  # type: ignore[attr-defined]
    ids = [*none._encode(THOUGHT), *none.action([command("ls")], TOOLS)]
    assert leaked(none, ids) > SPEECH and none.thought(ids).num_tokens == 0


@pytest.mark.parametrize("asked", EVERY, ids=["own", "qwen3"])
def test_arguments_that_a_tool_does_not_take_are_counted(asked: ThinkingRenderer) -> None:
    more: dict[str, Json] = {"command": "ls", "why": THOUGHT}
    ids = asked.action([Call(tool="sh", arguments=more)], TOOLS)
    assert leaked(asked, [*asked.closer, *ids[len(asked.closer) :]]) >= size(asked, THOUGHT)
    wrong = asked.action([Call(tool="sh", arguments={"command": [THOUGHT]})], TOOLS)
    assert leaked(asked, wrong) >= size(asked, THOUGHT), "a list where a string is asked for"


@pytest.mark.parametrize("asked", EVERY, ids=["own", "qwen3"])
def test_a_call_that_no_tool_takes_needs_no_token(asked: ThinkingRenderer) -> None:
    unknown = asked.action([Call(tool="ponder", arguments={"command": THOUGHT})], TOOLS)
    assert leaked(asked, unknown) >= size(asked, THOUGHT)
    whole = turn(asked, "ls")
    silent = [*asked.closer, *asked._encode(THOUGHT), whole[-1]]  # type: ignore[attr-defined]
    assert leaked(asked, silent) > SPEECH, "a turn without a call"


def test_compact_turns_are_counted_by_the_types_that_a_tool_asks_for() -> None:
    read = ToolSpec(
        name="read",
        description="",
        parameters={"type": "object", "properties": {"page": {"type": "integer"}}, "required": ["page"]},
    )
    asked = own(Dialect.COMPACT, Effort.HIGH)
    good = asked.action([ThoughtfulCall(tool="read", arguments={"page": 13}, thinking="kev")], [read])
    assert leaked(asked, good, [read]) == 0
    text = asked._encode("kev mak find kev")  # type: ignore[attr-defined]
    assert leaked(asked, [*good[:2], *text, good[-1]], [read]) == len(text)


COMMENTED = [
    f"ls  # {THOUGHT}",
    f"# {THOUGHT}\nls -l",
    f"// {THOUGHT}\nmain();",
    f"/* {THOUGHT}\n {THOUGHT} */ main();",
    f"SELECT 1 -- {THOUGHT}",
    f"<!-- {THOUGHT} --><p>kev</p>",
    f'"""{THOUGHT}"""\nprint(1)',
    f"'''{THOUGHT}\n{THOUGHT}'''\nx = 1",
    f'x = 1\n"{THOUGHT}"\ny = 2',
    f'echo "{THOUGHT}"; ls',
    f"echo {THOUGHT}",
    f": {THOUGHT}",
    f"cat <<'EOF'\n{THOUGHT}\nEOF\nls",
    f": <<X\n{THOUGHT}\nX\nls",
    f'print("{THOUGHT}")',
]
HONEST = [
    "ls -l",
    "grep -rn kev . | sort  # by name",
    "#!/bin/sh\nset -e\ncp kev mak\nmv mak let",
    '# Count the lines of each file.\nfor file in *.txt; do\n  wc -l "$file" >> counts\ndone\nsort -n counts',
    "echo kev=mak > config",
    'echo "$kev" | sort -n | head -3',
    "cat <<EOF > kev\n# Title\nkev is the key of mak, which is that of let\nEOF",
    "curl https://example.org/kev#mak",
    "git checkout -- kev",
    'def add(a, b):\n    """Adds."""\n    return a + b\n\nprint(add(1, 2))\nprint(f"{add(2, 3)} kev")',
    "echo done",
    '["kev", "mak", "let"]',
]


@pytest.mark.parametrize("asked", EVERY, ids=["own", "qwen3"])
@pytest.mark.parametrize("text", COMMENTED)
def test_comments_that_think_are_counted(asked: ThinkingRenderer, text: str) -> None:
    assert leaked(asked, turn(asked, text)) > SPEECH


@pytest.mark.parametrize("asked", EVERY, ids=["own", "qwen3"])
@pytest.mark.parametrize("text", HONEST)
def test_code_and_the_comment_that_explains_it_are_free(asked: ThinkingRenderer, text: str) -> None:
    """And so is a sentence before the call."""
    sentence = "I look at the files first."
    assert leaked(asked, turn(asked, text)) <= SPEECH
    if asked is EVERY[1]:  # a vocabulary of a real size; ours has a token for each letter here
        assert leaked(asked, turn(asked, "ls -l", before=sentence)) <= size(asked, sentence)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("effort", [Effort.NONE, Effort.HIGH])
def test_honest_turns_leak_nothing_in_any_family(name: str, effort: Effort) -> None:
    asked = chat(name).asking(effort)
    for text in (HONEST[0], HONEST[2], HONEST[4]):
        assert leaked(asked, asked.action([command(text)], TOOLS)) == 0


def test_commentary_is_found_once_and_code_stays() -> None:
    assert commentary("x = 1  # one\n") == "# one"
    assert commentary("# one // two") == "# one // two"
    assert commentary("x = '#1'; y = a // b") == "// b", "told by form"
    assert commentary("x" * 20_000 + '"' * 999 + "/*" * 999).startswith("/*")
