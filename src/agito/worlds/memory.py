"""A memory: notes in a namespace, with search and a log of all writes.

It starts empty and ends with its episode, unless the task gives it an `Archive`. Then it starts with the
notes that earlier episodes left in the namespace, and its own are archived when the world is sealed. So forks
that are never sealed leave nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agito.errors import InvalidArguments
from agito.types import AttemptId, Call, Exactness, Fault, ToolSpec
from agito.worlds.component import Answer, overran, spec, text_of
from agito.worlds.threads import DeadlinePassed, in_thread
from agito.worlds.words import words

REMEMBER = spec("remember", "Keeps a note.", ["note"])
RECALL = spec("recall", "Finds notes by their words, the best first.", ["query"])
FORGET = spec("forget", "Takes a note away.", {"id": "integer"})

# The tokenizer `ascii` splits at spaces and leaves other scripts alone; `words` does the rest.
_SCHEMA = """CREATE VIRTUAL TABLE notes USING fts5(words, text UNINDEXED, tokenize = 'ascii');
CREATE TABLE log (note, action, attempt, call, text)"""
_NAME = re.compile(r"\w+")
_MAX_NOTE = 4000
_MAX_WORDS = 32
_ARCHIVE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One log entry. `call` counts the attempt's calls to this memory, from 0."""

    note: int
    action: str  # "remember" or "forget"
    attempt: str
    call: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What a snapshot holds."""

    num_calls: int
    num_old: int
    log: tuple[Write, ...]


class Archive:
    """Notes that outlive episodes, by namespace: one JSON-lines file each, or only in this object if there is
    no folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: dict[str, list[Write]] = {}

    def read(self, namespace: str) -> tuple[Write, ...]:
        """Raises `ValueError` if the namespace is not a plain word."""
        if not _NAME.fullmatch(namespace):
            raise ValueError(f"namespace={namespace!r}: letters, digits and underscores")
        if self._folder is None:
            return tuple(self._kept.get(namespace, ()))
        path = self._folder / f"{namespace}.jsonl"
        return _written(path, path.read_bytes())[0] if path.exists() else ()

    def add(self, namespace: str, writes: Sequence[Write]) -> None:
        """Appends after the notes of other episodes and processes, which keep their numbers; ours are
        renumbered.
        """
        if self._folder is None:
            known = self.read(namespace)
            self._kept[namespace] = [*known, *_renumbered(known, writes)]
        elif writes:
            self.read(namespace)
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{namespace}.jsonl"
            with _alone(path) as file:
                known, size = _written(path, path.read_bytes())
                os.ftruncate(file, size)  # removes a last line torn by a kill or a full disk
                rows = (json.dumps(asdict(write)) + "\n" for write in _renumbered(known, writes))
                _append(file, "".join(rows).encode())


class Memory:
    """Implements `Component`."""

    tools: tuple[ToolSpec, ...] = (REMEMBER, RECALL, FORGET)
    exactness = Exactness.EXACT

    def __init__(
        self,
        attempt: AttemptId,
        *,
        namespace: str = "notes",
        archive: Archive | None = None,
        name: str = "memory",
        limit: int = 5,
    ) -> None:
        self.name, self._attempt, self._namespace, self._archive, self._limit = (
            name,
            attempt,
            namespace,
            archive,
            limit,
        )
        self._database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._database.executescript(_SCHEMA)
        self._num_calls = 0
        for write in archive.read(namespace) if archive else ():
            self._write(write)
        self._num_old = len(self.log)

    @property
    def log(self) -> tuple[Write, ...]:
        """Every write, including those from the archive."""
        rows = self._database.execute("SELECT note, action, attempt, call, text FROM log ORDER BY rowid")
        return tuple(
            Write(note=note, action=action, attempt=attempt, call=call, text=text)
            for note, action, attempt, call, text in rows
        )

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        self._num_calls += 1
        if call.tool == "recall":
            return await self._recall(text_of(call, "query"), timeout_s)
        if call.tool == "remember":
            text = text_of(call, "note").strip()
            if not 0 < len(text) <= _MAX_NOTE:
                raise InvalidArguments(f"a note has 1 to {_MAX_NOTE} characters")
            (last,) = self._database.execute(
                "SELECT coalesce(max(note), 0) FROM log WHERE action = 'remember'"
            ).fetchone()
            self._write(self._entry(last + 1, "remember", text))
            return Answer(text=f"kept as {last + 1}")
        number = call.arguments.get("id")
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidArguments("forget needs an integer `id`")
        is_small = abs(number) < 1 << 62
        row = (
            self._database.execute("SELECT text FROM notes WHERE rowid = ?", (number,)).fetchone()
            if is_small
            else None
        )
        if row is None:
            return Answer(text=f"no note {number if is_small else '?'}", fault=Fault.POLICY)
        self._write(self._entry(number, "forget", row[0]))
        return Answer(text="gone")

    async def _recall(self, query: str, timeout_s: float) -> Answer:
        """Searches outside the loop, because the time grows with the number of notes."""
        began = time.monotonic()
        try:
            found = await in_thread(
                lambda: self._find(query), timeout_s=timeout_s, stop=self._database.interrupt
            )
        except DeadlinePassed:
            return overran(began)
        return Answer(text="\n".join(f"{note}: {text}" for note, text in found) or "nothing found")

    def _find(self, query: str) -> list[tuple[int, str]]:
        wanted = list(dict.fromkeys(words(query)))[:_MAX_WORDS]
        if not wanted:
            return []
        asked = " OR ".join(f'"{word}"' for word in wanted)
        found = self._database.execute(
            "SELECT rowid, text FROM notes WHERE notes MATCH ? ORDER BY rank, rowid LIMIT ?",
            (asked, self._limit),
        )
        return found.fetchall()

    def _entry(self, note: int, action: str, text: str) -> Write:
        return Write(
            note=note, action=action, attempt=str(self._attempt), call=self._num_calls - 1, text=text
        )

    def _write(self, write: Write) -> None:
        if write.action == "remember":
            self._database.execute(
                "INSERT INTO notes (rowid, words, text) VALUES (?, ?, ?)",
                (write.note, " ".join(words(write.text)), write.text),
            )
        else:
            self._database.execute("DELETE FROM notes WHERE rowid = ?", (write.note,))
        self._database.execute(
            "INSERT INTO log VALUES (?, ?, ?, ?, ?)",
            (write.note, write.action, write.attempt, write.call, write.text),
        )

    async def snapshot(self) -> object:
        return _State(num_calls=self._num_calls, num_old=self._num_old, log=self.log)

    async def fork(self, token: object) -> Memory:
        assert isinstance(token, _State)
        child = Memory(self._attempt, namespace=self._namespace, name=self.name, limit=self._limit)
        child._archive = self._archive
        for write in token.log:
            child._write(write)
        child._num_calls, child._num_old = token.num_calls, token.num_old
        return child

    async def digest(self) -> str:
        return repr((self._num_calls, [(write.note, write.action, write.text) for write in self.log]))

    async def capture(self) -> Mapping[str, bytes]:
        """The log as JSON lines; new writes go to the archive."""
        writes = self.log
        if (archive := self._archive) is not None:  # outside the loop: another process may be adding, too
            await in_thread(
                lambda: archive.add(self._namespace, writes[self._num_old :]), timeout_s=_ARCHIVE_S
            )
        return {f"{self.name}.jsonl": "".join(json.dumps(asdict(write)) + "\n" for write in writes).encode()}

    async def close(self) -> None:
        self._database.close()


@contextmanager
def _alone(path: Path) -> Generator[int]:
    """An exclusively locked descriptor for appending."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def _append(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _written(path: Path, data: bytes) -> tuple[tuple[Write, ...], int]:
    """The writes, and the size of their lines; an incomplete last line does not count.

    Raises `ValueError` for a broken line before others: that is no torn end.
    """
    found: list[Write] = []
    size = 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            found.append(Write(**json.loads(line)))
        except (ValueError, TypeError) as error:
            if any(lines[number:]):
                raise ValueError(
                    f"{path}:{number}: no note can be read here ({error}); take the line out"
                ) from None
            break
        size += len(line) + 1
    return tuple(found), size


def _renumbered(known: Sequence[Write], writes: Sequence[Write]) -> list[Write]:
    offset = max((write.note for write in known if write.action == "remember"), default=0)
    ours = {
        write.note: offset + at
        for at, write in enumerate((w for w in writes if w.action == "remember"), start=1)
    }
    return [replace(write, note=ours.get(write.note, write.note)) for write in writes]
