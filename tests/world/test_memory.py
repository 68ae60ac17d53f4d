"""The memory: what is kept, found and forgotten, its origin, and what outlives an episode."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from agito.types import AttemptId, Call, Fault, Json
from agito.worlds.memory import Archive, Memory, Write

FIRST, SECOND = AttemptId(group=1, slot=0), AttemptId(group=2, slot=3)


async def say(memory: Memory, tool: str, argument: Json) -> str:
    name = {"remember": "note", "recall": "query", "forget": "id"}[tool]
    return (await memory.call(Call(tool=tool, arguments={name: argument}), timeout_s=1.0)).text


async def test_notes_are_found_by_their_words_and_forgotten_ones_are_not() -> None:
    memory = Memory(FIRST)
    assert await say(memory, "remember", "the key of the shed is under the stone") == "kept as 1"
    await say(memory, "remember", "the shed is locked")
    assert (await say(memory, "recall", "key SHED")).splitlines()[0].startswith("1: ")
    assert await say(memory, "forget", 1) == "gone"
    assert await say(memory, "recall", "key") == "nothing found"
    assert await say(memory, "remember", "another") == "kept as 3"


async def test_every_write_is_logged_with_its_attempt_and_call() -> None:
    memory = Memory(SECOND)
    await say(memory, "recall", "x")
    await say(memory, "remember", "a")
    await say(memory, "forget", 1)
    assert memory.log == (
        Write(note=1, action="remember", attempt="2.3.0", call=1, text="a"),
        Write(note=1, action="forget", attempt="2.3.0", call=2, text="a"),
    )


async def test_nothing_outlives_an_episode_unless_the_task_gives_an_archive() -> None:
    memory = Memory(FIRST)
    await say(memory, "remember", "a")
    await memory.capture()
    assert await say(Memory(SECOND), "recall", "a") == "nothing found"


@pytest.mark.parametrize("on_disk", [False, True])
async def test_an_archive_carries_notes_of_one_namespace_to_later_episodes_with_their_origin(
    tmp_path: Path, on_disk: bool
) -> None:
    archive = Archive(tmp_path / "notes" if on_disk else None)
    one, beside = (
        Memory(FIRST, namespace="x", archive=archive),
        Memory(SECOND, namespace="x", archive=archive),
    )
    await say(one, "remember", "apples")
    await say(beside, "remember", "pears")
    await say(beside, "remember", "plums")
    await say(beside, "forget", 2)
    await one.capture()
    await beside.capture()
    later = Memory(SECOND, namespace="x", archive=archive)
    assert await say(later, "recall", "apples pears plums") == "1: apples\n2: pears"
    assert [(write.note, write.attempt) for write in later.log] == [
        (1, "1.0.0"),
        (2, "2.3.0"),
        (3, "2.3.0"),
        (3, "2.3.0"),
    ]
    assert await say(Memory(SECOND, namespace="y", archive=archive), "recall", "apples") == "nothing found"


async def test_a_fork_goes_its_own_way_and_leaves_nothing_unless_it_is_sealed() -> None:
    archive = Archive()
    memory = Memory(FIRST, archive=archive)
    await say(memory, "remember", "a")
    fork = await memory.fork(await memory.snapshot())
    assert await fork.digest() == await memory.digest()
    await say(fork, "remember", "b")
    assert await fork.digest() != await memory.digest()
    assert await say(memory, "recall", "b") == "nothing found"
    await fork.close()
    assert archive.read("notes") == ()


@pytest.mark.parametrize("query", ['"', "a AND", "NEAR(", "text : *", "\x00", "x " * 5000])
async def test_no_query_and_no_note_breaks_the_memory(query: str) -> None:
    memory = Memory(FIRST)
    await say(memory, "recall", query)
    await say(memory, "remember", f"n{query[:100]}")
    answer = await memory.call(Call(tool="forget", arguments={"id": 10**40}), timeout_s=1.0)
    assert answer.fault is Fault.POLICY


def test_a_namespace_that_is_no_plain_word_is_refused() -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        Archive().read("../etc")


@pytest.mark.parametrize(
    "torn", [b'{"note": 2, "acti', b"\0\0\0", b'{"note": 2}', b'{"note": 2, "acti\n', b"\xff\n"]
)
async def test_a_torn_last_line_is_dropped_and_what_comes_later_stands_on_a_line_of_its_own(
    tmp_path: Path, torn: bytes
) -> None:
    archive = Archive(tmp_path)
    one = Memory(FIRST, archive=archive)
    await say(one, "remember", "apples")
    await one.capture()
    with (tmp_path / "notes.jsonl").open("ab") as file:
        file.write(torn)
    later = Memory(SECOND, archive=archive)
    assert await say(later, "recall", "apples") == "1: apples"
    await say(later, "remember", "pears")
    await later.capture()
    assert [(write.note, write.text) for write in Archive(tmp_path).read("notes")] == [
        (1, "apples"),
        (2, "pears"),
    ]


def test_a_line_that_cannot_be_read_before_others_is_named(tmp_path: Path) -> None:
    good = json.dumps(asdict(Write(note=1, action="remember", attempt="1.0.0", call=0, text="a")))
    (tmp_path / "notes.jsonl").write_text(f"{good}\nnonsense\n{good}\n")
    with pytest.raises(ValueError, match=r"notes\.jsonl:2"):
        Archive(tmp_path).read("notes")


ADDING = """
import sys
from pathlib import Path
from agito.worlds.memory import Archive, Write
for number in range(50):
    Archive(Path(sys.argv[1])).add("notes", [Write(note=9, action="remember", attempt=sys.argv[2], call=number, text="x" * 2000)])
"""  # noqa: E501


def test_processes_that_add_at_once_give_every_note_a_number_of_its_own(tmp_path: Path) -> None:
    adding = [
        subprocess.Popen([sys.executable, "-c", ADDING, str(tmp_path), f"{each}.0.0"]) for each in range(3)
    ]
    assert [each.wait(timeout=60) for each in adding] == [0, 0, 0]
    assert [write.note for write in Archive(tmp_path).read("notes")] == list(range(1, 151))
