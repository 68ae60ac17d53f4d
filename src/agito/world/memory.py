"""A memory: notes in a namespace, with search. Every write is logged with where it came from.

It begins empty and ends with its episode, unless the task gives it an `Archive`: then it begins with what earlier episodes left in the
namespace, and what it adds is kept when the world is sealed. A fork that is only looked at therefore leaves nothing.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from agito.errors import InvalidArguments
from agito.types import AttemptId, Call, Exactness, Fault, ToolSpec
from agito.world.component import Answer, spec, text_of

REMEMBER = spec("remember", "Keeps a note.", ["note"])
RECALL = spec("recall", "Finds notes by their words, the best first.", ["query"])
FORGET = spec("forget", "Takes a note away.", {"id": "integer"})

_SCHEMA = "CREATE VIRTUAL TABLE notes USING fts5(text); CREATE TABLE log (note, action, attempt, call, text)"
_WORD = re.compile(r"\w+")
_MAX_NOTE = 4000
_MAX_WORDS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One entry of the log. `call` counts the calls to this memory within the attempt, from 0."""

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
    """What outlives an episode, by namespace: a file of JSON lines each, or nothing but this object without a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._kept: dict[str, list[Write]] = {}

    def read(self, namespace: str) -> tuple[Write, ...]:
        """Raises `ValueError` for a namespace that is no plain word."""
        if not _WORD.fullmatch(namespace):
            raise ValueError(f"namespace={namespace!r}: letters, digits and underscores")
        if self._folder is None:
            return tuple(self._kept.get(namespace, ()))
        path = self._folder / f"{namespace}.jsonl"
        return tuple(Write(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()

    def add(self, namespace: str, writes: Sequence[Write]) -> None:
        """After those of other episodes, whose notes keep their numbers: ours get the next ones."""
        known = self.read(namespace)
        offset = max((write.note for write in known if write.action == "remember"), default=0)
        ours = {write.note: offset + at for at, write in enumerate((w for w in writes if w.action == "remember"), start=1)}
        moved = [replace(write, note=ours.get(write.note, write.note)) for write in writes]
        if self._folder is None:
            self._kept[namespace] = [*known, *moved]
        elif moved:
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{namespace}.jsonl").open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(write)) + "\n" for write in moved)


class Memory:
    """Implements `Component`."""

    tools: tuple[ToolSpec, ...] = (REMEMBER, RECALL, FORGET)
    exactness = Exactness.EXACT

    def __init__(
        self, attempt: AttemptId, *, namespace: str = "notes", archive: Archive | None = None, name: str = "memory", limit: int = 5
    ) -> None:
        self.name, self._attempt, self._namespace, self._archive, self._limit = name, attempt, namespace, archive, limit
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        self._database.executescript(_SCHEMA)
        self._num_calls = 0
        for write in archive.read(namespace) if archive else ():
            self._write(write)
        self._num_old = len(self.log)

    @property
    def log(self) -> tuple[Write, ...]:
        """Every write, what was there at the beginning included."""
        rows = self._database.execute("SELECT note, action, attempt, call, text FROM log ORDER BY rowid")
        return tuple(Write(note=note, action=action, attempt=attempt, call=call, text=text) for note, action, attempt, call, text in rows)

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        self._num_calls += 1
        if call.tool == "recall":
            return Answer(text="\n".join(f"{note}: {text}" for note, text in self._find(text_of(call, "query"))) or "nothing found")
        if call.tool == "remember":
            text = text_of(call, "note").strip().encode("utf-8", "replace").decode()
            if not 0 < len(text) <= _MAX_NOTE:
                raise InvalidArguments(f"a note has 1 to {_MAX_NOTE} characters")
            (last,) = self._database.execute("SELECT coalesce(max(note), 0) FROM log WHERE action = 'remember'").fetchone()
            self._write(self._entry(last + 1, "remember", text))
            return Answer(text=f"kept as {last + 1}")
        number = call.arguments.get("id")
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidArguments("forget needs an integer `id`")
        is_small = abs(number) < 1 << 62
        row = self._database.execute("SELECT text FROM notes WHERE rowid = ?", (number,)).fetchone() if is_small else None
        if row is None:
            return Answer(text=f"no note {number if is_small else '?'}", fault=Fault.POLICY)
        self._write(self._entry(number, "forget", row[0]))
        return Answer(text="gone")

    def _find(self, query: str) -> list[tuple[int, str]]:
        words = list(dict.fromkeys(_WORD.findall(query.lower())))[:_MAX_WORDS]
        if not words:
            return []
        asked = " OR ".join(f'"{word}"' for word in words)
        found = self._database.execute(
            "SELECT rowid, text FROM notes WHERE notes MATCH ? ORDER BY rank, rowid LIMIT ?", (asked, self._limit)
        )
        return found.fetchall()

    def _entry(self, note: int, action: str, text: str) -> Write:
        return Write(note=note, action=action, attempt=str(self._attempt), call=self._num_calls - 1, text=text)

    def _write(self, write: Write) -> None:
        if write.action == "remember":
            self._database.execute("INSERT INTO notes (rowid, text) VALUES (?, ?)", (write.note, write.text))
        else:
            self._database.execute("DELETE FROM notes WHERE rowid = ?", (write.note,))
        self._database.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?)", (write.note, write.action, write.attempt, write.call, write.text))

    async def snapshot(self) -> object:
        return _State(num_calls=self._num_calls, num_old=self._num_old, log=self.log)

    async def fork(self, token: object) -> Memory:
        assert isinstance(token, _State)
        twin = Memory(self._attempt, namespace=self._namespace, name=self.name, limit=self._limit)
        twin._archive = self._archive
        for write in token.log:
            twin._write(write)
        twin._num_calls, twin._num_old = token.num_calls, token.num_old
        return twin

    async def digest(self) -> str:
        return repr((self._num_calls, [(write.note, write.action, write.text) for write in self.log]))

    async def capture(self) -> Mapping[str, bytes]:
        """The log, as JSON lines; what is new goes to the archive."""
        writes = self.log
        if self._archive is not None:
            self._archive.add(self._namespace, writes[self._num_old :])
        return {f"{self.name}.jsonl": "".join(json.dumps(asdict(write)) + "\n" for write in writes).encode()}

    async def close(self) -> None:
        self._database.close()
